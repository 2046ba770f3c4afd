"""What every other part stands on: errors, whole files, arrays, thresholds."""
