"""LIS-AE: latent-insensitive autoencoders for anomaly detection (Battikh & Lenskiy, 2021)."""

__version__ = "0.1.0"
