"""What a run looks like: figures, maps of errors, one HTML page."""
