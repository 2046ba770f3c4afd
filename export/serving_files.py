"""Configuration of TensorFlow Serving, made from the models that lie in a folder.

The files are text protocol buffers; the compose file starts the stock
image on the folder.
"""

from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import write_text
from lisae_tf.exported import model_record
from lisae_tf.exported.model_record import GRAPH, numbered
from lisae_tf.exported.runtimes import PIXELS
from lisae_tf.serving import model_config

if TYPE_CHECKING:
    from tensorflow_serving.config.model_server_config_pb2 import ModelConfig

MODELS = model_config.FILE_NAME
BATCHING, MONITORING, COMPOSE = "batching.config", "monitoring.config", "docker-compose.yml"
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

    Raises:
        LisaeError: an earlier `models.config` is none.
    """
    from google.protobuf import text_format
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    stable, config, most = stable_versions(folder), ModelServerConfig(), []
    for model in sorted(path for path in folder.iterdir() if path.is_dir()):
        versions = [v for v in numbered(model) if (model / str(v) / GRAPH).is_file()]
        if versions and not model.name.startswith("."):
            entry = config.model_config_list.config.add(
                name=model.name, base_path=f"{MOUNT}/{model.name}", model_platform="tensorflow"
            )
            _choose_versions(entry, stable.get(model.name), versions)
            most += [_most_pictures(model / str(version)) for version in versions]
    write_text(folder / MODELS, text_format.MessageToString(config))
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
        height, width, _ = model_record.read_record(version, model_record.SAVED_MODEL)["shape"]
    except LisaeError:  # it is served or refused elsewhere
        return BATCH_SIZES[-1]
    return batch_sizes(height, width)[-1]


def _choose_versions(entry: "ModelConfig", stable: int | None, versions: list[int]) -> None:
    canary = max(versions)
    labels = {"stable": stable if stable in versions else canary, "canary": canary}
    entry.version_labels.update(labels)
    # By number, a version that nobody has exported here would never be served; by name, "stable"
    # stays whatever is added, and what lies between costs no memory.
    newest = 1 + sum(version >= labels["stable"] for version in versions)
    if newest > MOST_SERVED:
        entry.model_version_policy.specific.versions.extend(sorted(set(labels.values())))
    else:
        entry.model_version_policy.latest.num_versions = newest


def stable_versions(folder: Path) -> dict[str, int]:
    """Where the label "stable" points for each model of an earlier export into `folder`.

    Raises:
        LisaeError: its `models.config` is none.
    """
    if not (folder / MODELS).is_file():
        return {}
    entries = model_config.parse(folder / MODELS).model_config_list.config
    return {each.name: each.version_labels.get("stable", 0) for each in entries}
