"""From settings to a calibrated and tested run, and what is done with runs later."""
