"""The model config file beside a model: which versions to serve and what their labels are.

TensorFlow Serving's own format, text protocol buffers, read and written with the official stubs.
`base_path` is where another machine finds the model, so it is not looked at.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lisae_tf.core.errors import LisaeError

if TYPE_CHECKING:
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

FILE_NAME = "models.config"
MAX_BYTES = 2**20


@dataclass(frozen=True)
class ModelConfig:
    """What the file says of one model; without a file, the newest version and no labels.

    Attributes:
        newest: how many of the newest versions to serve; None for all.
        specific: exactly these versions instead, if any.
        labels: version by label.
    """

    newest: int | None = 1
    specific: frozenset[int] = frozenset()
    labels: dict[str, int] = field(default_factory=dict)

    def choose(self, available: Iterable[int]) -> set[int]:
        """The versions to serve of those that there are."""
        if self.specific:
            return self.specific & set(available)
        return set(sorted(available, reverse=True)[: self.newest])


def find(model: Path) -> Path | None:
    """The config file in the model's folder or in the folder around it."""
    for folder in (model, model.parent):
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
    return None


def parse(path: Path) -> "ModelServerConfig":
    """All that `path` says.

    Raises:
        LisaeError: unreadable, or no model config.
    """
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    parsed = model_server_config_pb2.ModelServerConfig()
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("it is too large")
        text_format.Parse(path.read_text(encoding="utf-8"), parsed)
    except (OSError, ValueError, RecursionError, text_format.ParseError) as error:
        raise LisaeError(f"{path} is no model config file ({error}); restore it") from error
    return parsed


def read(path: Path, name: str) -> ModelConfig:
    """What `path` says of the model `name`.

    Raises:
        LisaeError: unreadable, no model config, or nothing about that model.
    """
    parsed = parse(path)
    named = [each for each in parsed.model_config_list.config if each.name == name]
    if not named:
        raise LisaeError(f"{path} says nothing of the model '{name}'; name it with --name")
    policy = named[0].model_version_policy
    kind = policy.WhichOneof("policy_choice")
    return ModelConfig(
        newest={"all": None, "latest": max(policy.latest.num_versions, 1)}.get(kind or "", 1),
        specific=frozenset(policy.specific.versions) if kind == "specific" else frozenset(),
        labels=dict(named[0].version_labels),
    )
