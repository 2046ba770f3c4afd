"""Settings: read, merged with the YAML files of `configs/`, checked once."""
