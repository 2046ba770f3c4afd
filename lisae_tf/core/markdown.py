"""Pieces of the Markdown report."""


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def folded(title: str, body: str) -> str:
    """A part that opens on a click."""
    return f"<details><summary>{title}</summary>\n\n{body}\n</details>\n"


def difference(ours: float | None, paper: float | None) -> str:
    """Ours minus the paper's, marked; empty where one is missing."""
    if ours is None or paper is None:
        return ""
    return f"{'▲' if ours >= paper else '▼'} {ours - paper:+.4f}"
