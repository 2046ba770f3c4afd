"""The one error for what the user did wrong; the command line prints it as one sentence."""


class LisaeError(ValueError):
    """Bad input, a missing file or an impossible request: says what is wrong and what to do."""


def install(extra: str) -> str:
    """How a part of the package is installed, which lies on no index."""
    return f"install it with pip install '.[{extra}]' in a clone of lisae-tf's repository"
