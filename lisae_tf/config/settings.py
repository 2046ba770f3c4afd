"""Every setting of a run, read, merged and checked once; the sections are in `sections`.

A resolved configuration is saved with the run and is itself a valid `--config` file.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from lisae_tf.config.sections import (
    NO_LONGER_READ,
    AnoGAN,
    Calibration,
    Data,
    FeatureExtraction,
    Features,
    Fusion,
    Hypersphere,
    IsolationForest,
    KernelDensity,
    LatentShaping,
    Memory,
    Natural,
    NearestNeighbours,
    Network,
    OneClassSVM,
    Scoring,
    Section,
    ShapedNeighbours,
    SigmoidReplicator,
    VariationalAutoencoder,
    is_none,
)
from lisae_tf.config.tiling import tiling_of
from lisae_tf.config.variants import PICTURES_ONLY, ROWS, SECTIONS, VARIANTS
from lisae_tf.core.errors import LisaeError

Classes = Annotated[list[int | str], Field(min_length=1)]

# Left out of the record unless set: results from before there were such folders stay comparable.
Folder = Annotated[str | None, Field(exclude_if=is_none)]
FOLDER = "folder"
# What known flaws may choose: settings by their paths.
CHOSEN = ("variant", "features.negatives", "scoring.highest_share")


def _told_if_set(section: type[Section]) -> Any:
    """Leaves a section out of the record while it has its defaults."""
    return Field(exclude_if=lambda given: given == section())


def _listed(folders: str | list[str] | None) -> list[str]:
    return [folders] if isinstance(folders, str) else list(folders or ())


class Config(Section):
    """All settings of one run."""

    dataset: str = "surfaces"
    normal_class: Classes | None = None
    protocol: Literal["one-class", "two-class", "next-class", "halves"] = "halves"
    negatives: str = "other-half"
    anomaly_class: Classes | None = None
    normal_dir: str | Annotated[list[str], Field(min_length=1)] | None = None
    negative_dir: str | None = None
    anomaly_dir: str | None = None
    test_dir: Folder = None  # good/ and a folder for each kind of anomaly
    mask_dir: Folder = None  # of the anomalies
    negative_mask_dir: Folder = None
    ignore_mask: Folder = None  # a picture: white where no picture of a folder counts
    # Of that file as it was named, so that another one is noticed.
    ignore_mask_sha256: Annotated[
        str | None, Field(pattern="^[0-9a-f]{64}$", exclude_if=is_none)
    ] = None
    # Its height and width, so that pictures of other proportions are noticed.
    ignore_mask_size: Annotated[
        list[Natural] | None, Field(min_length=2, max_length=2, exclude_if=is_none)
    ] = None
    # Known flaws: some choose settings, the others join the test.
    known_dir: Annotated[
        str | Annotated[list[str], Field(min_length=1)] | None, Field(exclude_if=is_none)
    ] = None
    # Which settings they choose; none of a run's record, which has what was chosen.
    choose: Annotated[
        list[Literal[*CHOSEN]], Field(default_factory=list, exclude_if=lambda given: not given)
    ]
    variant: Literal[*VARIANTS] = "lis"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: Data = Data()
    # Left out of the record unless set: results on pixels stay comparable.
    features: Annotated[Features | None, Field(exclude_if=is_none)] = None
    network: Network = Network()
    feature_extraction: FeatureExtraction = FeatureExtraction()
    latent_shaping: LatentShaping = LatentShaping()
    kde: KernelDensity = KernelDensity()
    isolation_forest: IsolationForest = IsolationForest()
    oc_svm: OneClassSVM = OneClassSVM()
    knn: Annotated[NearestNeighbours, _told_if_set(NearestNeighbours)] = NearestNeighbours()
    lis_knn: Annotated[ShapedNeighbours, _told_if_set(ShapedNeighbours)] = ShapedNeighbours()
    vae: VariationalAutoencoder = VariationalAutoencoder()
    memory: Memory = Memory()
    sig_repnn: SigmoidReplicator = SigmoidReplicator()
    fusion: Fusion = Fusion()
    hypersphere: Hypersphere = Hypersphere()
    anogan: AnoGAN = AnoGAN()
    # Left out of the record at its default: results from before there was a choice stay comparable.
    scoring: Annotated[Scoring, _told_if_set(Scoring)] = Scoring()
    calibration: Calibration = Calibration()

    @model_serializer(mode="wrap")
    def _with_all_that_is_read(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A run's record holds what its variant reads: another default must not change the run."""
        record = serialise(self)
        for name in ("knn", "lis_knn"):
            if name in ROWS[self.variant].sections and name not in record:
                record[name] = getattr(self, name).model_dump()
        return record

    @model_validator(mode="after")
    def _folders_belong_together(self) -> "Config":
        if self.dataset == FOLDER and not self.normal_dir:
            raise ValueError("training on your own folders needs --normal-dir")
        folders = (
            self.normal_dir, self.negative_dir, self.anomaly_dir, self.test_dir, self.mask_dir,
            self.negative_mask_dir, self.known_dir,
        )  # fmt: skip
        if self.dataset != FOLDER and any(folders):
            raise ValueError(
                "folders of pictures go with --normal-dir, the folder of normal ones; they and a "
                "named dataset exclude each other"
            )
        if self.dataset != FOLDER and self.data.group_by is not None:
            raise ValueError(
                "--group-by (data.group_by) goes by the names of files in --normal-dir"
            )
        if self.dataset != FOLDER and self.ignore_mask:
            raise ValueError("--ignore-mask goes with --normal-dir, the folder of normal pictures")
        if self.test_dir and self.anomaly_dir:
            raise ValueError(
                "--test-dir holds the anomalies already; leave it or --anomaly-dir out"
            )
        if self.mask_dir and not (self.test_dir or self.anomaly_dir):
            raise ValueError("masks need anomalies; name them with --test-dir or --anomaly-dir")
        if self.negative_mask_dir and not self.negative_dir:
            raise ValueError("masks of negatives need negatives; name them with --negative-dir")
        return self

    @model_validator(mode="after")
    def _known_flaws_choose_on_features(self) -> "Config":
        if self.choose and not self.known_dir:
            raise ValueError("choose goes with known flaws; name them with --known-dir")
        if self.choose and not self.features:
            raise ValueError(
                "known flaws choose among detectors on pretrained features; leave --known-dir out, "
                "or --features none and a variant that works on pixels alone"
            )
        if self.choose and self.data.tile is not None:
            raise ValueError(
                "known flaws choose for whole pictures; leave --known-dir out, or --tile"
            )
        return self

    @model_validator(mode="after")
    def _variant_takes_features(self) -> "Config":
        if self.features and self.variant in PICTURES_ONLY:
            raise ValueError(
                f"{self.variant} does not work on features; give --features none, or another "
                "--variant such as lis-knn"
            )
        return self

    @model_validator(mode="after")
    def _tiles_have_a_picture(self) -> "Config":
        if self.data.tile is None:
            if self.data.stride is not None:
                raise ValueError("a stride goes with tiles; give --tile as well")
        elif self.data.size is None:
            raise ValueError(
                "tiles need the size that pictures get before they are cut; give --input-size "
                "(data.size)"
            )
        else:
            tiling_of(self.data, self.data.channels or 1)
        return self

    @model_validator(mode="after")
    def _what_does_not_count_can_be_left_out(self) -> "Config":
        if self.ignore_mask and (reason := self.cannot_ignore):
            raise ValueError(reason)
        return self

    @property
    def cannot_ignore(self) -> str | None:
        """Why regions of pictures cannot be left out with these settings; None where they can."""
        if self.data.tile is not None:
            return "regions are left out of whole pictures; leave --ignore-mask out, or --tile"
        if self.data.mirror:
            return (
                "mirrored pictures show elsewhere what does not count; leave --ignore-mask out, or "
                "set data.mirror=false"
            )
        if not self.features and "scoring" not in ROWS[self.variant].sections:
            return (
                f"{self.variant} on pixels has no map of errors that regions could be left out of; "
                "leave --ignore-mask out, or --features none"
            )
        return None

    @property
    def normal_dirs(self) -> list[str]:
        """The folders of normal pictures, in the order in which they became normal."""
        return _listed(self.normal_dir)

    @property
    def known_dirs(self) -> list[str]:
        """The folders of known flaws, in the order in which they became known."""
        return _listed(self.known_dir)

    def settings_read(self) -> dict[str, Any]:
        """The settings that the variant reads, without the sections of other variants."""
        read = ROWS[self.variant].sections
        unread = set(SECTIONS.difference(read))
        if self.features:  # every variant has maps there
            unread.discard("scoring")
        settings = self.model_dump(exclude=unread)
        if self.latent_shaping.gamma_times is not None:  # it is read instead of `gamma`
            settings.get("latent_shaping", {}).pop("gamma", None)
        if "network" in read and "feature_extraction" not in read:  # solved, not trained
            settings["network"] = {"latent": self.network.latent}
            if self.latent_shaping.closed_form and "latent_shaping" in settings:
                settings["latent_shaping"] = {"closed_form": True}
        return settings

    def unread(self, given: Mapping[str, Any]) -> list[str]:
        """Which of some settings the variant never reads, as paths: `kde.bandwidth`."""
        whole, read = (dict(leaves(each)) for each in (self.model_dump(), self.settings_read()))
        whole |= {f"latent_shaping.{name}": None for name in NO_LONGER_READ}
        return [path for path, _ in leaves(given) if path in whole and path not in read]

    def to_yaml(self, *, read: bool = False) -> str:
        """The resolved settings as YAML that `--config` takes.

        Args:
            read: those that the variant reads alone, for people.
        """
        settings = self.settings_read() if read else self.model_dump()
        return yaml.dump(settings, Dumper=_Dumper, sort_keys=False)

    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of the settings."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()[
            :16
        ]


def leaves(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting by its path, as in `latent_shaping.gamma`."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def _sections() -> dict[str, type[Section]]:
    """The sections by name, those too that may be absent."""
    found = {}
    for name, field in Config.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Section):
                found[name] = kind
    return found


def _sentence(error: ValidationError, origin: str) -> str:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"] if isinstance(part, str | int))
    if first["type"] == "extra_forbidden":
        model: Any = Config
        for part in first["loc"][:-1]:
            model = _sections()[part]
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


def is_record(settings: Mapping[str, Any]) -> bool:
    """Whether settings are a run's own record, which lacks nothing that needs another default."""
    return settings.keys() >= {
        name for name, field in Config.model_fields.items() if field.exclude_if is None
    }


def config_folder() -> Path:
    """Where the dataset configurations lie: in the package; in a clone a link leads to them."""
    return Path(__file__).resolve().parent / "yaml"


def dataset_settings(dataset: str) -> dict[str, Any] | None:
    """The settings in `configs/<dataset>.yaml`; None where there is no such file."""
    path = config_folder() / f"{dataset}.yaml"
    return read_settings(path) if path.is_file() else None
