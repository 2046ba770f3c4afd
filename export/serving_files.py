"""Configuration of TensorFlow Serving, made from the models that lie in a folder.

Runs without TensorFlow. The files are text protocol buffers; the compose file starts the stock
image on the folder.
"""

import re
from collections.abc import Container
from pathlib import Path

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import write_text
from lisae_tf.exported import artefacts
from lisae_tf.exported.artefacts import GRAPH, numbered
from lisae_tf.exported.runtimes import PIXELS

MODELS, BATCHING, MONITORING, COMPOSE = (
    "models.config", "batching.config", "monitoring.config", "docker-compose.yml",
)  # fmt: skip
# Where the container sees the folder.
MOUNT = "/models"
MOST_SERVED = 4  # versions of one model at a time, unless it is by name
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)  # what batches are padded to; each is warmed up

_MONITORING = """\
prometheus_config {
  enable: true
  path: "/monitoring/prometheus/metrics"
}
"""

_COMPOSE = f"""\
# TensorFlow Serving on this folder: docker compose up
# REST on port 8501, gRPC on port 8500, both on this machine alone.
services:
  serving:
    image: ${{TF_SERVING_IMAGE:-tensorflow/serving:latest}}
    command:
      - --model_config_file={MOUNT}/{MODELS}
      - --model_config_file_poll_wait_seconds=30
      # Without it a label cannot be given while its version is still loading.
      - --allow_version_labels_for_unavailable_models=true
      - --enable_batching=true
      - --batching_parameters_file={MOUNT}/{BATCHING}
      - --monitoring_config_file={MOUNT}/{MONITORING}
    ports:
      - "127.0.0.1:8500:8500"
      - "127.0.0.1:8501:8501"
    volumes:
      - .:{MOUNT}:ro
    restart: unless-stopped
"""


def write_serving_files(folder: Path) -> None:
    """Writes the configuration of all models in `folder` (`<folder>/<name>/<version>/`).

    The label "canary" goes to the newest version. "stable" stays where it is until somebody edits
    `models.config`; at first it is the same version. Both are served, and so are the versions
    between them and one that is copied in later, until the next export counts anew; where those
    are many, the two alone. The other files are left as they are once somebody has edited them.
    """
    stable = _stable_versions(folder / MODELS)
    entries, most = [], []
    for model in sorted(path for path in folder.iterdir() if path.is_dir()):
        versions = [v for v in numbered(model) if (model / str(v) / GRAPH).is_file()]
        if versions and not model.name.startswith("."):
            kept = stable.get(model.name, 0)
            entries.append(_entry(model.name, kept if kept in versions else None, versions))
            most += [_most_pictures(model / str(version)) for version in versions]
    inner = "".join(entries)
    write_text(folder / MODELS, f"model_config_list {{\n{inner}}}\n")
    # Shared by all models of a server: as many pictures as the largest ones allow.
    _write(folder / BATCHING, _batching(min(most, default=BATCH_SIZES[-1])), _unedited())
    for name, text in ((MONITORING, _MONITORING), (COMPOSE, _COMPOSE)):
        _write(folder / name, text)


def batch_sizes(height: int, width: int) -> tuple[int, ...]:
    """The sizes of batches, in pictures, that are no burden for pictures of this size."""
    return tuple(size for size in BATCH_SIZES if size == 1 or size * height * width <= PIXELS)


def _batching(most: int) -> str:
    sizes = [size for size in BATCH_SIZES if size <= most]
    head = f"""\
max_batch_size {{ value: {most} }}
batch_timeout_micros {{ value: 1000 }}
num_batch_threads {{ value: 4 }}
max_enqueued_batches {{ value: 64 }}
"""
    return head + "".join(f"allowed_batch_sizes: {size}\n" for size in sizes)


def _unedited() -> set[str]:
    """What an earlier export may have written."""
    return {_batching(size) for size in BATCH_SIZES}


def _write(path: Path, text: str, replaceable: Container[str] = ()) -> None:
    """Writes a file that is not there yet, or that nobody has edited."""
    if not path.exists() or path.read_text(encoding="utf-8") in replaceable:
        write_text(path, text)


def _most_pictures(version: Path) -> int:
    """In a batch of an exported model; the usual number where its record does not tell."""
    try:
        height, width, _ = artefacts.read_record(version, artefacts.SAVED_MODEL)["shape"]
    except LisaeError:  # it is served or refused elsewhere
        return BATCH_SIZES[-1]
    return batch_sizes(height, width)[-1]


def _entry(name: str, stable: int | None, versions: list[int]) -> str:
    canary = max(versions)
    labels = {"stable": stable or canary, "canary": canary}
    # By number, a version that nobody has exported here would never be served; by name, "stable"
    # stays whatever is added, and what lies between costs no memory.
    newest = 1 + sum(version >= labels["stable"] for version in versions)
    policy = f"latest {{ num_versions: {newest} }}"
    if newest > MOST_SERVED:
        served = "".join(f" versions: {version}" for version in sorted(set(labels.values())))
        policy = f"specific {{{served} }}"
    labelled = "".join(
        f'    version_labels {{ key: "{key}" value: {value} }}\n' for key, value in labels.items()
    )
    return f"""\
  config {{
    name: "{name}"
    base_path: "{MOUNT}/{name}"
    model_platform: "tensorflow"
    model_version_policy {{ {policy} }}
{labelled}  }}
"""


def _stable_versions(path: Path) -> dict[str, int]:
    """Where the label "stable" points for each model of an earlier file."""
    if not path.is_file():
        return {}
    found = {}
    for entry in re.split(r"\bconfig\s*\{", path.read_text(encoding="utf-8"))[1:]:
        name = re.search(r"""\bname:\s*["']([^"']+)""", entry)
        label = re.search(r"""key:\s*["']stable["']\s*,?\s*value:\s*(\d+)""", entry)
        if name and label:
            found[name.group(1)] = int(label.group(1))
    return found
