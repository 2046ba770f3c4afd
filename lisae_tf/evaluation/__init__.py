"""How well a detector does: the only reader of anomaly labels."""
