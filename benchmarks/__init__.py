"""What this package costs beside what people would use instead: `python -m benchmarks all`.

Each comparison runs both sides in one process, in turns, on real pictures and the same network.
No part of the installed package.
"""
