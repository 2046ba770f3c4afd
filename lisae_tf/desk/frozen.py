"""The desk's page as one file to pass on: its pictures are inside, and nothing is written.

Runs without TensorFlow.
"""

import base64
import hashlib
import json
import re
from importlib.resources import files

from lisae_tf.core.errors import LisaeError
from lisae_tf.desk import maps
from lisae_tf.desk.desk import Desk
from lisae_tf.desk.server import image_type
from lisae_tf.desk.thumbnails import encoded

SIDE, QUALITY, MAP_SIDE = 96, 70, 48  # pixels, of JPEG, pixels
MOST = 5000  # pictures; a larger file is slow to open
_BATCH = 64
_OF_SERVER = ("session", "page", "marks_file")
_LINK = re.compile(r'<link rel="stylesheet" href="static/([a-z.]+)">')
_SCRIPT = re.compile(r'<script src="static/([a-z.]+)"></script>\n')


def page(desk: Desk) -> str:
    """HTML that opens offline; pictures that are gone stand in it without their picture.

    Raises:
        LisaeError: there are too many pictures.
    """
    count = len(desk.pictures)
    if count > MOST:
        raise LisaeError(
            f"{count:,} pictures are too many for one file, which takes {MOST:,}; name fewer"
        )
    document = {key: value for key, value in desk.document().items() if key not in _OF_SERVER}
    document["names"] = desk.names(0, count)
    thumbs: list[str | None] = []
    drawn: list[str | None] = []
    for first in range(0, count, _BATCH):
        batch = range(first, min(first + _BATCH, count))
        thumbs += [_thumbnail(desk, index) for index in batch]
        if desk.scorer.has_maps:
            drawn += _maps(desk, batch)
    return _whole(document | {"thumbs": thumbs, "maps": drawn or None})


def _thumbnail(desk: Desk, index: int) -> str | None:
    try:
        content = desk.pictures.content(index, desk.scorer.shape)
        return _uri(encoded(content, SIDE, desk.scorer.depth, QUALITY))
    except LisaeError:
        return None


def _maps(desk: Desk, batch: range) -> list[str | None]:
    keys = [(index, desk.thresholds.now()) for index in batch]
    made = maps.made(desk.pictures, desk.scorer, keys, MAP_SIDE)
    return [_uri(each) if isinstance(each, bytes) else None for each in made]


def _uri(data: bytes) -> str:
    return f"data:{image_type(data)};base64,{base64.b64encode(data).decode('ascii')}"


def _whole(document: dict) -> str:
    """The page with its style, its scripts and the document in it; no other script may run."""
    folder = files("lisae_tf.desk").joinpath("static")
    hashes: dict[str, list[str]] = {"style": [], "script": []}

    def inside(kind: str, name: str) -> str:
        text = folder.joinpath(name).read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
        hashes[kind].append(f"'sha256-{digest}'")
        return f"<{kind}>{text}</{kind}>"

    html = folder.joinpath("desk.html").read_text(encoding="utf-8")
    html = _LINK.sub(lambda found: inside("style", found[1]), html)
    scripts = "\n".join(inside("script", name) for name in _SCRIPT.findall(html))
    # Nothing in a name may end the element, or open another.
    data = json.dumps(document, allow_nan=False).replace("<", "\\u003c")
    frozen = f'<script type="application/json" id="frozen">{data}</script>\n'
    html = _SCRIPT.sub("", html).replace("</body>", f"{frozen}{scripts}\n</body>")
    policy = (
        f"default-src 'none'; img-src data:; style-src {' '.join(hashes['style'])}; "
        f"script-src {' '.join(hashes['script'])}"
    )
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    return html.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n{meta}', 1)
