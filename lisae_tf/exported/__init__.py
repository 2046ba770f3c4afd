"""Exported models: their records, scores and thresholds, without the training side."""
