"""The one error for what the user did wrong; the command line prints it as one sentence."""


class LisaeError(ValueError):
    """Bad input, a missing file or an impossible request: says what is wrong and what to do."""
