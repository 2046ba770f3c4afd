"""The verbs of the command line; each module reads options, makes one call, prints the result."""
