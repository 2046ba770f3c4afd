"""Linear autoencoders: solutions of `lisae_tf/model/linear.py`, run through the scoring graph."""

import math

import numpy as np
from sklearn.decomposition import PCA

from lisae_tf.core.errors import LisaeError
from lisae_tf.data.parts import Parts, TrainingData
from lisae_tf.detectors.graph import AutoencoderDetector
from lisae_tf.detectors.pixels import check_arrays, rows, thin
from lisae_tf.model.checkpoints import Arrays
from lisae_tf.model.linear import fit_in_closed_form, fit_linear, principal_subspace
from lisae_tf.model.networks import build_linear_networks
from lisae_tf.training.latent_shaping import resolve_gamma
from lisae_tf.training.phase import TrainingOptions

MAX_PICTURES = 10_000  # of each side; the second moments change little beyond


def _as_rows(side: Parts) -> np.ndarray:
    """The fit part as rows on the 0-1 scale; rows as they are, whatever their number."""
    fit = side.fit
    return fit if fit.ndim == 2 else rows(thin(fit, MAX_PICTURES))


class LinearDetector(AutoencoderDetector):
    """`linear-ae`: the principal components of normal pictures, its best solution.

    No linear encoder and decoder, biases included, reconstruct with a smaller squared error (Baldi
    & Hornik 1989), so nothing is trained: x̂ = μ + U_r U_rᵀ (x − μ).
    """

    def networks(self):
        return self._networks

    def fit_data(self, data: TrainingData, options: TrainingOptions) -> None:
        data = self._seen(data)
        x = rows(thin(data.normal.fit, MAX_PICTURES), np.float64)
        latent = self.config.network.latent
        if latent > min(x.shape):
            raise LisaeError(
                f"network.latent must be at most {min(x.shape)} here: a picture has "
                f"{x.shape[1]} values and there are {x.shape[0]} pictures"
            )
        found = PCA(latent, svd_solver="covariance_eigh").fit(x)
        self.shape = data.shape
        self._build(found.components_.astype(np.float32), found.mean_.astype(np.float32))

    def _build(self, components: np.ndarray, mean: np.ndarray) -> None:
        self._components, self._mean = components, mean
        self._networks = build_linear_networks(self.shape, len(components), use_bias=True)
        _, latent, decoder = self._networks
        latent.set_weights([components.T, -components @ mean])
        decoder.set_weights([components, mean])
        self._make_graph()

    def arrays(self) -> Arrays:
        return {"components": self._components, "mean": self._mean}

    def restore(self, arrays: Arrays) -> None:
        size = math.prod(self.shape)
        check_arrays(arrays, {"components": (self.config.network.latent, size), "mean": (size,)})
        self._build(arrays["components"], arrays["mean"])


class LinearLatentInsensitiveDetector(AutoencoderDetector):
    """Section 4.1: E = U_r + U_c B, decoder U_r."""

    needs_negatives = True

    def networks(self):
        return self._networks

    def fit_data(self, data: TrainingData, options: TrainingOptions) -> None:
        size = math.prod(data.shape)
        if self.config.network.latent >= size:
            raise LisaeError(f"network.latent must be below the {size} values of a picture")
        data = self._seen(data)
        self.shape = data.shape
        settings, sides = self.config.latent_shaping, (data.normal, data.negative)
        if settings.closed_form:
            if 2 * self.config.network.latent > size:
                raise LisaeError(
                    f"network.latent must be at most {size // 2} in closed form, half the {size} "
                    "values there are"
                )
            fitted = fit_in_closed_form(*map(_as_rows, sides), self.config.network.latent)
            self._build(fitted.e, fitted.u_r)
            return
        normal, negative = (rows(thin(side.fit, MAX_PICTURES), np.float64) for side in sides)
        subspace = principal_subspace(normal, self.config.network.latent)
        held_out = rows(data.normal.stopping, np.float64)
        error = float(np.sum(np.square(held_out @ subspace[1]))) / held_out.size
        gamma, relative = resolve_gamma(settings, error)
        if relative:
            self.notes = [relative]
            options.say(relative)
        fitted = fit_linear(
            normal, negative, self.config.network.latent, gamma=gamma * size, beta=settings.beta,
            subspace=subspace,
        )  # fmt: skip
        self._build(fitted.e, fitted.u_r)

    def _build(self, e: np.ndarray, u_r: np.ndarray) -> None:
        self._e, self._u_r = e.astype(np.float32), u_r.astype(np.float32)
        self._networks = build_linear_networks(self.shape, self.config.network.latent)
        _, latent, decoder = self._networks
        latent.set_weights([self._e])
        decoder.set_weights([self._u_r.T])
        self._make_graph()

    def phase1_detector(self) -> "LinearLatentInsensitiveDetector":
        """The linear autoencoder E = U_r."""
        before = LinearLatentInsensitiveDetector(self.config)
        before.shape, before.ignored = self.shape, self.ignored
        before._build(self._u_r, self._u_r)
        return before

    def arrays(self) -> Arrays:
        return {"e": self._e, "u_r": self._u_r}

    def restore(self, arrays: Arrays) -> None:
        wanted = (math.prod(self.shape), self.config.network.latent)
        if set(arrays) != {"e", "u_r"} or any(a.shape != wanted for a in arrays.values()):
            raise LisaeError("the stored arrays do not fit the configuration; train again")
        self._build(arrays["e"], arrays["u_r"])
