"""Every setting of a run, in the order of the paper's methods section, checked once.

A resolved configuration is saved with the run and is itself a valid `--config` file.
"""

import difflib
import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lisae_tf.errors import LisaeError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Natural = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=0.5)]
Filters = Annotated[list[Natural], Field(min_length=2, max_length=2)]
Side = Annotated[int, Field(ge=8, le=1024)]
Classes = Annotated[list[int | str], Field(min_length=1)]

Variant = Literal[
    "ae", "lis", "linsep", "linsep-fused", "linear-lis",
    "kde", "if", "oc-svm", "oc-dsvdd", "anogan", "anogan-fm",
    "linear-ae", "vae", "mem-ae", "sig-repnn",
    "bce", "deep-sad", "hsc",
]  # fmt: skip
VARIANTS: tuple[str, ...] = get_args(Variant)
PROTOCOLS = ("one-class", "two-class", "next-class", "halves")
FOLDER = "folder"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Data(_Section):
    """How pictures reach the network and how the training part is held out."""

    mirror: bool = False  # train on each picture mirrored left to right as well
    size: Annotated[list[Side], Field(min_length=2, max_length=2)] | None = None
    channels: Literal[1, 3] | None = None
    stopping_fraction: Fraction = 0.1
    calibration_fraction: Fraction = 0.1
    test_fraction: Fraction = 0.1


class Network(_Section):
    """Encoder, latent and decoder (equations 1-3; section 5.1)."""

    latent: Natural = 32
    filters: Filters = [32, 64]
    decoder_filters: Filters | None = None  # as `filters`, in reverse, unless given


class FeatureExtraction(_Section):
    """Phase 1."""

    epochs: Natural = 15
    batch_size: Natural = 128
    learning_rate: Positive = 1e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 300
    patience: Natural = 5
    linsep_weight: Positive = 0.5  # times the mean picture's error on held-out normals
    collapse_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    restarts: Annotated[int, Field(ge=0, le=2)] = 2


class LatentShaping(_Section):
    """Phase 2 (equation 4)."""

    epochs: Natural = 10
    batch_size: Natural = 128
    learning_rate: Positive = 1e-3
    patience: Natural = 5
    gamma: Positive = 0.1
    beta: Positive = 1.0
    hinge: Literal["hinge", "squared-hinge", "literal"] = "hinge"
    cache_features: bool = True
    bank_copies: Natural = 2
    memory_budget_mb: Natural = 2048


class KernelDensity(_Section):
    """`kde`: the bandwidths tried, on 0-1 pixels, and how many pictures the density rests on."""

    smallest_bandwidth: Positive = 0.01
    largest_bandwidth: Positive = 1.0
    bandwidths: Natural = 31
    max_pictures: Natural = 10_000

    @model_validator(mode="after")
    def _bandwidths_are_a_range(self) -> "KernelDensity":
        if self.smallest_bandwidth > self.largest_bandwidth:
            raise ValueError("smallest_bandwidth must not exceed largest_bandwidth")
        return self


class IsolationForest(_Section):
    """`if`: the original paper's numbers of trees and of pictures for each tree."""

    trees: Natural = 100
    max_samples: Annotated[int, Field(ge=2)] = 256


class OneClassSVM(_Section):
    """`oc-svm`: ν, and the inverse length scales tried as multiples of 1 / (values · variance)."""

    nu: Annotated[float, Field(gt=0, lt=1)] = 0.1
    scales: Annotated[list[Positive], Field(min_length=1)] = [
        0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0,
    ]  # fmt: skip
    max_pictures: Natural = 5000


class VariationalAutoencoder(_Section):
    """`vae`: the weight of the divergence from the prior, which is divided by H·W·C."""

    kl_weight: Positive = 0.02  # 2σ²: a Gaussian decoder with σ = 0.1 on 0-1 pixels


class Memory(_Section):
    """`mem-ae`: the sizes and weights of Gong et al. (2019)."""

    items: Annotated[int, Field(ge=2)] = 100
    shrinkage: Annotated[float, Field(ge=0, lt=1)] = 0.01  # addresses up to it become 0
    entropy_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2e-4


class SigmoidReplicator(_Section):
    """`sig-repnn`: levels of the staircase and how steep its steps are."""

    levels: Annotated[int, Field(ge=2)] = 4
    steepness: Positive = 20.0


class Fusion(_Section):
    """`linsep-fused`: the weights of the logit that are tried on held-out training pictures."""

    weights: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)] = [
        0.0, 0.25, 0.5, 1.0, 2.0, 4.0,
    ]  # fmt: skip


class Hypersphere(_Section):
    """`oc-dsvdd` and `deep-sad` after their pretraining as an autoencoder (phase 1)."""

    epochs: Natural = 15
    learning_rate: Positive = 1e-3
    patience: Natural = 5
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-6
    eta: Positive = 1.0  # weight of the negatives in `deep-sad`


class AnoGAN(_Section):
    """`anogan` and `anogan-fm`: the GAN (phase 1), then the encoder (phase 2)."""

    epochs: Natural = 60
    learning_rate: Positive = 5e-4  # of generator and critic
    critic_steps: Natural = 5  # for each step of the generator
    gradient_penalty: Positive = 10.0
    encoder_epochs: Natural = 20
    encoder_learning_rate: Positive = 1e-3
    patience: Natural = 5
    kappa: Positive = 1.0  # weight of the feature distance


class Calibration(_Section):
    """The threshold α (section 3.4)."""

    false_positive_rate: Annotated[float, Field(gt=0, lt=1)] = 0.05


class Config(_Section):
    """All settings of one run."""

    dataset: str = "surfaces"
    normal_class: Classes | None = None
    protocol: Literal["one-class", "two-class", "next-class", "halves"] = "halves"
    negatives: str = "other-half"
    anomaly_class: Classes | None = None
    normal_dir: str | None = None
    negative_dir: str | None = None
    anomaly_dir: str | None = None
    variant: Variant = "lis"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: Data = Data()
    network: Network = Network()
    feature_extraction: FeatureExtraction = FeatureExtraction()
    latent_shaping: LatentShaping = LatentShaping()
    kde: KernelDensity = KernelDensity()
    isolation_forest: IsolationForest = IsolationForest()
    oc_svm: OneClassSVM = OneClassSVM()
    vae: VariationalAutoencoder = VariationalAutoencoder()
    memory: Memory = Memory()
    sig_repnn: SigmoidReplicator = SigmoidReplicator()
    fusion: Fusion = Fusion()
    hypersphere: Hypersphere = Hypersphere()
    anogan: AnoGAN = AnoGAN()
    calibration: Calibration = Calibration()

    @model_validator(mode="after")
    def _folders_belong_together(self) -> "Config":
        if self.dataset == FOLDER and not self.normal_dir:
            raise ValueError("training on your own folders needs --normal-dir")
        if self.dataset != FOLDER and (self.normal_dir or self.negative_dir or self.anomaly_dir):
            raise ValueError(
                "folders of pictures and a named dataset exclude each other; give one of them"
            )
        return self

    def to_yaml(self) -> str:
        """The resolved settings as YAML that `--config` takes."""
        return yaml.dump(self.model_dump(), Dumper=_Dumper, sort_keys=False)

    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of the settings."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()[
            :16
        ]


def _sections() -> dict[str, type[_Section]]:
    kinds = {name: field.annotation for name, field in Config.model_fields.items()}
    return {
        name: kind
        for name, kind in kinds.items()
        if isinstance(kind, type) and issubclass(kind, _Section)
    }


def _sentence(error: ValidationError, origin: str) -> str:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"] if isinstance(part, str | int))
    if first["type"] == "extra_forbidden":
        model: Any = Config
        for part in first["loc"][:-1]:
            model = model.model_fields[part].annotation
        known = {name: name for name in model.model_fields}
        if model is Config:  # "gamma" for "latent_shaping.gamma"
            for section, inner in _sections().items():
                known = {name: f"{section}.{name}" for name in inner.model_fields} | known
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.0)
        return f"{origin}: unknown setting '{path}'; did you mean '{known[near[0]]}'?"
    if first["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'|(\d+)", str(first["ctx"]["expected"]))
        names = [a or b for a, b in choices]
        near = difflib.get_close_matches(str(first["input"]), names, n=1, cutoff=0.0)
        return (
            f"{origin}: {path} cannot be {first['input']!r}; did you mean '{near[0]}'? "
            f"Valid: {', '.join(names)}"
        )
    where = f"{path} " if path else ""
    message = first["msg"].removeprefix("Value error, ")
    return f"{origin}: {where}{message[0].lower() + message[1:]}" + (
        f" (given: {first['input']!r})" if path else ""
    )


# YAML 1.1 reads 1e-3 as text; people mean the number. Text in quotes stays text.
_FLOAT = re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$")


class _Loader(yaml.SafeLoader):
    """Safe YAML with all decimal numbers."""


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back unchanged."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


def parse_yaml(text: str, origin: str) -> Any:
    """YAML data (no tags, no code).

    Raises:
        LisaeError: broken YAML; the sentence names the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise LisaeError(f"{origin}: broken YAML{line}: {problem}") from error


def read_settings(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        LisaeError: the file is missing, broken, or no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LisaeError(f"the configuration file {path} cannot be read; check the path") from error
    settings = parse_yaml(text, str(path))
    if not isinstance(settings, dict):
        raise LisaeError(f"{path} must hold settings as 'name: value' lines")
    return settings


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid upon it, section by section."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(old, Mapping)
        merged[key] = merge(old, value) if both else value
    return merged


def assignments(items: Sequence[str]) -> dict[str, Any]:
    """`["latent_shaping.gamma=0.2"]` as nested settings.

    Raises:
        LisaeError: an item without '=' or with a broken value.
    """
    settings: dict[str, Any] = {}
    for item in items:
        path, equals, value = item.partition("=")
        if not equals or not path:
            raise LisaeError(
                f"--set {item}: write it as path=value, as in latent_shaping.gamma=0.2"
            )
        nested: Any = parse_yaml(value, f"--set {item}")
        for part in reversed(path.split(".")):
            nested = {part: nested}
        settings = merge(settings, nested)
    return settings


def resolve(settings: Mapping[str, Any], origin: str = "settings") -> Config:
    """Checked settings.

    Raises:
        LisaeError: an unknown key (with the nearest valid one) or a value of a wrong type.
    """
    try:
        return Config.model_validate(dict(settings))
    except ValidationError as error:
        raise LisaeError(_sentence(error, origin)) from error


def config_folder() -> Path:
    """Where the dataset configurations lie: beside the package, or where pip put them."""
    checkout = Path(__file__).resolve().parents[1] / "configs"
    return checkout if checkout.is_dir() else Path(sys.prefix) / "share" / "lisae_tf" / "configs"


def dataset_settings(dataset: str) -> dict[str, Any] | None:
    """The settings in `configs/<dataset>.yaml`; None where there is no such file."""
    path = config_folder() / f"{dataset}.yaml"
    return read_settings(path) if path.is_file() else None
