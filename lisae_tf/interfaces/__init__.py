"""The detectors as scikit-learn and PyOD know them."""
