"""LinSep-LIS-AE with phase 1's logit kept as a second output; ours, not the paper's.

LinSep (end of section 4.2) trains a logit that tells normal from negative pictures and drops it.
Here it stays beside the reshaped error, and both make one score.
"""

from dataclasses import astuple, dataclass

import keras
import numpy as np
from sklearn.metrics import roc_auc_score

from lisae_tf.core.errors import LisaeError
from lisae_tf.data.parts import TrainingData
from lisae_tf.detectors.lisae import LatentInsensitiveDetector
from lisae_tf.model.checkpoints import Arrays, OwnLayer, set_weights
from lisae_tf.model.scoring import Scorer, covered, error_outputs, of_pictures
from lisae_tf.training.phase import TrainingOptions, build_autoencoder

NEAR_TIE = 0.001  # of AUROC: held-out pictures do not tell such weights apart


@dataclass(frozen=True)
class Fusion:
    """(e − mean_error) / std_error + weight · (−logit + mean_logit) / std_logit."""

    weight: float
    mean_error: float
    std_error: float
    mean_logit: float
    std_logit: float

    def __call__(self, error, logit):
        scale = self.weight / self.std_logit
        offset = scale * self.mean_logit - self.mean_error / self.std_error
        return error / self.std_error - scale * logit + offset


ERROR_ALONE = Fusion(0.0, 0.0, 1.0, 0.0, 1.0)


def choose_fusion(
    normal: tuple[np.ndarray, np.ndarray],
    negative: tuple[np.ndarray, np.ndarray],
    weights: list[float],
) -> tuple[Fusion, dict[float, float]]:
    """Standardises by held-out normals and chooses the weight on held-out pictures.

    The weight is the one with the highest AUROC of normals against negatives. Among those within
    `NEAR_TIE` of it, the one nearest to 1 as a ratio is taken (of two equally near ones the
    better): where both scores separate perfectly the data has no say and neither has the larger
    voice.

    Args:
        normal: final error and phase-1 logit, (N,) each.
        negative: likewise, (M,) each.
        weights: what is tried; 0 is the error alone.

    Returns:
        The fusion, and the AUROC of each weight.

    Raises:
        LisaeError: held-out normals whose errors or logits are all alike.
    """
    (error, logit), found = (np.asarray(part, np.float64) for part in normal), {}
    if not (np.std(error) > 0 and np.std(logit) > 0):
        raise LisaeError(
            "held-out normal pictures all score alike, so nothing can be standardised by them; "
            "give more pictures or raise data.stopping_fraction"
        )
    scales = tuple(float(v) for v in (error.mean(), error.std(), logit.mean(), logit.std()))
    truth = np.repeat([0, 1], [len(error), len(negative[0])])
    both = [np.concatenate(pair) for pair in zip(normal, negative, strict=True)]
    for weight in weights:
        found[weight] = float(roc_auc_score(truth, Fusion(weight, *scales)(*both)))
    best = max(found.values())
    tied = [weight for weight in found if found[weight] >= best - NEAR_TIE]
    distance = {w: abs(np.log(w)) if w else np.inf for w in tied}
    return Fusion(min(tied, key=lambda w: (distance[w], -found[w])), *scales), found


class FusedScore(OwnLayer):
    """[e (N,), logit (N, 1)] -> float32 (N,); the numbers are those of a `Fusion`."""

    def __init__(self, fusion: tuple[float, ...], **kwargs):
        super().__init__(**kwargs)
        self._fusion = Fusion(*fusion)

    def call(self, inputs):
        error, logit = inputs
        return self._fusion(error, logit[:, 0])


class FusedDetector(LatentInsensitiveDetector):
    """Standardised final error + w · standardised negated logit of phase 1, in one graph.

    x -> s = ℰ(x) once; the error goes through the reshaped latent layer and the decoder, the logit
    through the latent layer as phase 1 left it. w comes from `fusion.weights` by the AUROC of
    held-out normals against held-out negatives; ties and near-ties go to the weight nearest to 1.
    """

    meaning = "standardised reconstruction error plus the weighted logit of phase 1"

    def _heads(self) -> keras.Model:
        """The model x -> "score", the error (N,), "logit", (N, 1), and of pictures "error_map"."""
        before = build_autoencoder(self.config, self.shape, seed=self.config.seed)
        set_weights(before, self._phase1_weights)
        encoder, latent, decoder = self.networks()
        x = keras.Input(self.shape, name="x")
        seen = covered(x, self.counted)
        s = encoder(seen)
        found = error_outputs(seen, decoder(latent(s)), self.highest_share, self.counted)
        return keras.Model(x, found | {"logit": before.logit(before.preactivation(s))})

    def inference(self) -> keras.Model:
        heads = self._heads()
        found = dict(heads.output)
        fused = FusedScore(astuple(self.fusion), name="score")([found["score"], found.pop("logit")])
        return keras.Model(heads.input, found | {"score": fused})

    def _error_and_logit(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        run = Scorer(of_pictures(self._heads()))
        return run(images, "score"), run(images, "logit")[:, 0]

    def fit_data(self, data: TrainingData, options: TrainingOptions) -> None:
        self.fusion = ERROR_ALONE
        super().fit_data(data, options)
        settings = self.config.fusion
        self.fusion, found = choose_fusion(
            self._error_and_logit(data.normal.stopping),
            self._error_and_logit(data.negative.stopping),
            settings.weights,
        )
        tried = ", ".join(f"{weight:g}: {auroc:.4f}" for weight, auroc in found.items())
        self.notes = [
            *self.notes,
            f"the logit weighs {self.fusion.weight:g} (held-out AUROC by weight: {tried})",
        ]
        self._make_graph()

    def arrays(self) -> Arrays:
        return super().arrays() | {"fusion": np.asarray(astuple(self.fusion), np.float64)}

    def restore(self, arrays: Arrays) -> None:
        fusion = arrays.get("fusion")
        if fusion is None or fusion.shape != (5,) or not np.isfinite(fusion).all():
            raise LisaeError("the stored arrays do not fit the configuration; train again")
        self.fusion = Fusion(*map(float, fusion))
        super().restore(arrays)
