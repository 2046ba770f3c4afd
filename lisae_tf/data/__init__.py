"""Pictures: files and named datasets, who is normal, negative or anomaly, and what training sees.

Modules are imported by name: files and pixels are read where TensorFlow is not.
"""
