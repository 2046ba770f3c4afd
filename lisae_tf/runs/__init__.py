"""Run folders: where they lie, which files they hold, and who may write to them."""
