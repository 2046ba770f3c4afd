"""Exporters of the scoring graph: they look in from outside, nothing of a format enters a model."""
