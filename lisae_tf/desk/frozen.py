"""The desk's page as one file to pass on: its pictures are inside, and nothing is written.

Runs without TensorFlow.
"""

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from typing import Any

from lisae_tf.core.errors import LisaeError
from lisae_tf.desk import maps
from lisae_tf.desk.desk import Desk
from lisae_tf.desk.pictures import as_address, encoded

SIDE, QUALITY, MAP_SIDE = 96, 70, 48  # pixels, of JPEG, pixels
MOST = 5000  # pictures; a larger file is slow to open
LEFT_OUT = ""  # stands where a picture, or its map, is not in the file
_BATCH = 64
_OF_SERVER = ("session", "page", "marks_file", "read_only")
LIVE_SCRIPTS = ("trial.js", "mask.js")  # of what needs a server
_SCRIPT = re.compile(r'<script src="static/([a-z.]+)"></script>\n')


def page(desk: Desk) -> tuple[str, str]:
    """The page for all pictures; those that are gone stand in it without their picture.

    Returns:
        HTML that opens offline, and a sentence on pictures that are gone; "" where none are.

    Raises:
        LisaeError: there are too many pictures.
    """
    count = len(desk.pictures)
    if count > MOST:
        raise LisaeError(
            f"{count:,} pictures are too many for one file, which takes {MOST:,}; name fewer"
        )
    found = document(desk, range(count), range(count))
    return whole(found), found["lost"]


def document(
    desk: Desk, shown: Sequence[int], mapped: Sequence[int], room: float = math.inf
) -> dict[str, Any]:
    """What the page is made of; each list has a place for every picture on the desk.

    Args:
        desk: what is looked at.
        shown: pictures whose thumbnails are in it, the most important first.
        mapped: those whose error maps are in it, for which the model runs once more.
        room: bytes of all thumbnails; those for which there is none are left out.
    """
    count = len(desk.pictures)
    found = {key: value for key, value in desk.document().items() if key not in _OF_SERVER}
    thumbs: list[str | None] = [LEFT_OUT] * count
    with ThreadPoolExecutor() as pool:
        for index, made in zip(shown, pool.map(partial(_thumbnail, desk), shown), strict=True):
            room -= len(made or LEFT_OUT)
            if room < 0:
                break
            thumbs[index] = made
    drawn: list[str | None] = [LEFT_OUT] * count
    if desk.scorer.has_maps:
        for first in range(0, len(mapped), _BATCH):
            batch = mapped[first : first + _BATCH]
            for index, each in zip(batch, _maps(desk, batch), strict=True):
                drawn[index] = each
    return found | {
        "names": desk.names(0, count),
        "thumbs": thumbs,
        "maps": drawn if desk.scorer.has_maps else None,
        "lost": _lost(thumbs.count(None)),
        "command": f"python cli.py calibrate {desk.thresholds.options()} --threshold",
    }


def _lost(count: int) -> str:
    if not count:
        return ""
    are = "pictures are" if count > 1 else "picture is"
    return (
        f"{count} {are} gone or changed, and not shown; put such pictures back, or name folders "
        "that have moved with --data-root."
    )


def _thumbnail(desk: Desk, index: int) -> str | None:
    try:
        content = desk.pictures.content(index, desk.scorer.shape)
        return as_address(encoded(content, SIDE, desk.scorer.depth, QUALITY))
    except LisaeError:
        return None


def _maps(desk: Desk, batch: Sequence[int]) -> list[str | None]:
    keys = [(index, desk.thresholds.now()) for index in batch]
    made = maps.made(desk.pictures, desk.scorer, keys, MAP_SIDE)
    return [as_address(each) if isinstance(each, bytes) else None for each in made]


def whole(document: dict[str, Any], text: str = "") -> str:
    """The page with its style, its scripts and the document in it; no other script may run.

    Args:
        document: see above.
        text: HTML above the desk; its style is report.css.
    """
    folder = files("lisae_tf.desk").joinpath("static")
    hashes: dict[str, list[str]] = {"style": [], "script": []}

    def inside(kind: str, name: str) -> str:
        content = folder.joinpath(name).read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode("ascii")
        hashes[kind].append(f"'sha256-{digest}'")
        return f"<{kind}>{content}</{kind}>"

    page = folder.joinpath("desk.html").read_text(encoding="utf-8")
    styles = inside("style", "desk.css") + (f"\n{inside('style', 'report.css')}" if text else "")
    names = [name for name in _SCRIPT.findall(page) if name not in LIVE_SCRIPTS]
    scripts = "\n".join(inside("script", name) for name in names)
    # Nothing in a name may end the element, or open another.
    data = json.dumps(document, allow_nan=False).replace("<", "\\u003c")
    frozen = f'<script type="application/json" id="frozen">{data}</script>\n'
    policy = (
        f"default-src 'none'; img-src data:; style-src {' '.join(hashes['style'])}; "
        f"script-src {' '.join(hashes['script'])}; base-uri 'none'; form-action 'none'"
    )
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    title = html.escape(document["title"])
    # From the end to the beginning: what is put in is never looked through.
    pieces = (
        ("</body>", f"{frozen}{scripts}\n</body>"),
        ("<main>", f"<main>{text}"),
        ('<h1 id="title">desk</h1>', f'<h1 id="title">{title}</h1>'),
        ('<link rel="stylesheet" href="static/desk.css">', styles),
        ("<title>desk</title>", f"<title>{title}</title>"),
        ('<meta charset="utf-8">', f'<meta charset="utf-8">\n{meta}'),
    )
    page = _SCRIPT.sub("", page)
    end = ""
    for mark, piece in pieces:
        page, _, rest = page.rpartition(mark)
        end = piece + rest + end
    return page + end
