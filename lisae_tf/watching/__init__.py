"""A folder whose pictures are scored as they arrive, without the training side."""
