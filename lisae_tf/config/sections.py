"""The sections of a configuration with their defaults, in the order of the paper's methods.

How they are read, merged and checked is in `config`.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Natural = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, lt=0.5)]
Filters = Annotated[list[Natural], Field(min_length=2, max_length=2)]
WHOLE = 1024  # pixels of a side of what a network sees at once
Side = Annotated[int, Field(ge=8, le=WHOLE)]
LongSide = Annotated[int, Field(ge=8, le=16 * WHOLE)]  # of pictures that are cut into tiles


Precision = Literal["float32", "mixed_bfloat16"]


def is_none(value: object) -> bool:
    """For settings that are left out of the record unless set, so that older records agree."""
    return value is None


def _is_false(value: object) -> bool:
    return value is False


def _is_zero(value: object) -> bool:
    return value == 0


def _is_float32(value: object) -> bool:
    return value == "float32"


def _compiles(pattern: str | None) -> str | None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ValueError(f"must be a regular expression ({error})") from error
    return pattern


class Section(BaseModel):
    """Settings that belong together; unknown names and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Data(Section):
    """How pictures reach the network and how the training part is held out."""

    mirror: bool = False  # train on each picture mirrored left to right as well
    size: Annotated[list[LongSide], Field(min_length=2, max_length=2)] | None = None
    channels: Literal[1, 3] | None = None
    # Bits in use of pictures with 16, by the normal ones: 12 of many cameras. 16 unless set. Left
    # out of the record unless set, as are tiles: results from before there were such settings stay
    # comparable.
    depth: Annotated[int | None, Field(ge=8, le=16, exclude_if=is_none)] = None
    tile: Annotated[Side | None, Field(exclude_if=is_none)] = None
    stride: Annotated[Natural | None, Field(exclude_if=is_none)] = None  # `tile` unless given
    # A regular expression over the paths of files: what its first group matches stays in one part.
    group_by: Annotated[str | None, Field(exclude_if=is_none), AfterValidator(_compiles)] = None
    stopping_fraction: Fraction = 0.1
    calibration_fraction: Fraction = 0.1
    test_fraction: Fraction = 0.1

    @model_validator(mode="after")
    def _long_sides_are_cut(self) -> "Data":
        if self.size and max(self.size) > WHOLE and self.tile is None:
            raise ValueError(
                f"data.size may have {WHOLE:,} pixels a side at most, unless pictures are cut into "
                "tiles; give --tile as well"
            )
        return self


class Network(Section):
    """Encoder, latent and decoder (equations 1-3; section 5.1)."""

    latent: Natural = 32
    filters: Filters = [32, 64]
    decoder_filters: Filters | None = None  # as `filters`, in reverse, unless given
    # Of encoder and decoder while the autoencoders train; weights and scores are float32 always.
    precision: Annotated[Precision, Field(exclude_if=_is_float32)] = "float32"


Backbone = Literal[
    "efficientnet_lite0", "mobilenet_v3_small", "efficientnet_v2_b0", "resnet50", "convnext_tiny"
]


class Features(Section):
    """Frozen pretrained features at each place of a picture, which take the place of pixels."""

    backbone: Backbone = "efficientnet_lite0"
    taps: Annotated[list[str], Field(min_length=1)] | None = None  # the backbone's own unless given
    local_mean: Literal[1, 3, 5, 7] = 3  # side of the neighbourhood that each tap is averaged over
    places: Annotated[int, Field(ge=1000)] = 200_000  # that train, of all normal pictures together
    made: Annotated[int, Field(ge=20)] = 200  # pictures that negatives are made of, at most
    # Which negatives are trained against; "auto" judges by kinds left out.
    negatives: Literal["auto", "none", "made", "real", "both"] = "auto"
    # Of a negative picture whose flaw nobody has marked, the share of places that look oddest.
    unusual_share: Annotated[float, Field(gt=0, le=1)] = 0.02


class FeatureExtraction(Section):
    """Phase 1."""

    epochs: Natural = 15
    batch_size: Natural = 32
    learning_rate: Positive = 1e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 300
    patience: Natural = 5
    # First the decoder alone trains for so many steps, in whole epochs, so that pictures near their
    # mean do not saturate the latent layer. Left out of the record unless set, as tiles are.
    decoder_steps: Annotated[int, Field(ge=0, exclude_if=_is_zero)] = 0
    linsep_weight: Positive = 0.5  # times the mean picture's error on held-out normals
    # Patience begins where the held-out error is below the mean picture's by this share. 0: no
    # waiting for that, and no check whether all pictures come out alike.
    collapse_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05
    restarts: Annotated[int, Field(ge=0, le=2)] = 2


# Settings of phase 2 that earlier versions read; their runs and results have them on record.
NO_LONGER_READ = ("cache_features", "bank_copies", "memory_budget_mb")


class LatentShaping(Section):
    """Phase 2 (equation 4)."""

    epochs: Natural = 10
    batch_size: Natural = 32
    learning_rate: Positive = 1e-3
    patience: Natural = 5
    gamma: Positive = 0.1
    # γ as a multiple of the held-out normal error after phase 1, instead of `gamma`. Left out of
    # the record unless set, as tiles are.
    gamma_times: Annotated[Positive | None, Field(exclude_if=is_none)] = None
    beta: Positive = 1.0
    hinge: Literal["hinge", "squared-hinge", "literal"] = "hinge"
    # `linear-lis` by second moments instead of by gradient, as for own folders.
    closed_form: Annotated[bool, Field(exclude_if=_is_false)] = False

    @model_validator(mode="before")
    @classmethod
    def _earlier_names_are_passed_over(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        return {name: value for name, value in given.items() if name not in NO_LONGER_READ}


class KernelDensity(Section):
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


class IsolationForest(Section):
    """`if`: the original paper's numbers of trees and of pictures for each tree."""

    trees: Natural = 100
    max_samples: Annotated[int, Field(ge=2)] = 256


class OneClassSVM(Section):
    """`oc-svm`: ν, and the inverse length scales tried as multiples of 1 / (values · variance)."""

    nu: Annotated[float, Field(gt=0, lt=1)] = 0.1
    scales: Annotated[list[Positive], Field(min_length=1)] = [
        0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0,
    ]  # fmt: skip
    max_pictures: Natural = 5000


class NearestNeighbours(Section):
    """`knn`: a memory bank of places that covers all (Roth et al. 2022, PatchCore)."""

    bank: Annotated[int, Field(ge=2)] = 2000
    neighbours: Natural = 9  # whose distances are averaged
    projection: Natural = 32  # dimensions that the choice looks at


class ShapedNeighbours(Section):
    """`lis-knn`: the same in latent-insensitive directions, which need no random projection."""

    bank: Annotated[int, Field(ge=2)] = 3000
    neighbours: Natural = 1
    directions: Natural = 80  # those in which negatives stand out most


class VariationalAutoencoder(Section):
    """`vae`: the weight of the divergence from the prior, which is divided by H·W·C."""

    kl_weight: Positive = 0.02  # 2σ²: a Gaussian decoder with σ = 0.1 on 0-1 pixels


class Memory(Section):
    """`mem-ae`: the sizes and weights of Gong et al. (2019)."""

    items: Annotated[int, Field(ge=2)] = 100
    shrinkage: Annotated[float, Field(ge=0, lt=1)] = 0.01  # addresses up to it become 0
    entropy_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2e-4


class SigmoidReplicator(Section):
    """`sig-repnn`: levels of the staircase and how steep its steps are."""

    levels: Annotated[int, Field(ge=2)] = 4
    steepness: Positive = 20.0


class Fusion(Section):
    """`linsep-fused`: the weights of the logit that are tried on held-out training pictures."""

    weights: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)] = [
        0.0, 0.25, 0.5, 1.0, 2.0, 4.0,
    ]  # fmt: skip


class Hypersphere(Section):
    """`oc-dsvdd` and `deep-sad` after their pretraining as an autoencoder (phase 1)."""

    epochs: Natural = 15
    learning_rate: Positive = 1e-3
    patience: Natural = 5
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-6
    eta: Positive = 1.0  # weight of the negatives in `deep-sad`


class AnoGAN(Section):
    """`anogan` and `anogan-fm`: the GAN (phase 1), then the encoder (phase 2)."""

    epochs: Natural = 60
    learning_rate: Positive = 5e-4  # of generator and critic
    critic_steps: Natural = 5  # for each step of the generator
    gradient_penalty: Positive = 10.0
    encoder_epochs: Natural = 20
    encoder_learning_rate: Positive = 1e-3
    patience: Natural = 5
    kappa: Positive = 1.0  # weight of the feature distance


class Scoring(Section):
    """How a picture's map of errors becomes its score."""

    # The mean of so large a share of the map's places, the highest ones; 1 is the plain mean.
    highest_share: Annotated[float, Field(gt=0, le=1)] = 1.0


class Calibration(Section):
    """The threshold α (section 3.4)."""

    false_positive_rate: Annotated[float, Field(gt=0, lt=1)] = 0.05
