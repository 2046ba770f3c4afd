"""The linear case (section 4.1): U_r by singular value decomposition, then B by equation 4.

Notation of the paper, on column vectors x in R^m, as rows of X here: x = U_r z + U_c c.
E := U_r + U_c B with B of shape (m-r, r) (the paper prints the transpose); the decoder is U_r.
"""

from dataclasses import dataclass

import numpy as np
from scipy import linalg, optimize

from lisae_tf.core.arrays import batches

RIDGE = 1e-3  # of the mean energy of a direction
DOMINANCE = 100.0  # normal energy of Bᵀc over that of c
_ROWS = 20_000  # of a second moment, at a time


@dataclass(frozen=True)
class LinearLISAE:
    """A fitted linear latent-insensitive autoencoder x̂ = U_r Eᵀ x."""

    u_r: np.ndarray  # float64 (m, r)
    u_c: np.ndarray  # float64 (m, m-r)
    b: np.ndarray  # float64 (m-r, r)

    @property
    def e(self) -> np.ndarray:
        """The encoder's matrix E = U_r + U_c·B, float64 (m, r)."""
        return self.u_r + self.u_c @ self.b

    def orthogonal(self, x: np.ndarray) -> np.ndarray:
        """The orthogonal part c = U_cᵀ x of each row of x: (N, m) -> (N, m-r)."""
        return x @ self.u_c

    def loss(self, x: np.ndarray) -> np.ndarray:
        """The score L_LIS = ‖Bᵀc‖² + ‖c‖² of each row: (N, m) -> (N,)."""
        c = self.orthogonal(x)
        return np.sum(np.square(c @ self.b), axis=1) + np.sum(np.square(c), axis=1)


def principal_subspace(x: np.ndarray, r: int) -> tuple[np.ndarray, np.ndarray]:
    """The bases U_r and U_c of X⁺ (not centred, as in the paper): (N, m) -> (m, r) and (m, m-r)."""
    return _principal_axes(x.T @ x, r)


def _principal_axes(moment: np.ndarray, r: int) -> tuple[np.ndarray, np.ndarray]:
    _, vectors = linalg.eigh(moment)
    u = vectors[:, ::-1]
    # A sign for each vector that does not depend on the solver.
    u = u * np.sign(u[np.abs(u).argmax(axis=0), np.arange(u.shape[1])])
    return u[:, :r], u[:, r:]


def second_moment(x: np.ndarray) -> np.ndarray:
    """The mean of x xᵀ over the rows: float (N, m) -> float64 (m, m), in bounded memory."""
    total = np.zeros((x.shape[1],) * 2)
    for part in batches(x, _ROWS):
        wide = part.astype(np.float64)
        total += wide.T @ wide
    return total / len(x)


def _standing_out(s_normal: np.ndarray, s_negative: np.ndarray, count: int) -> np.ndarray:
    """Directions of most negative energy for a unit of normal energy: (m, m) twice -> (m, count).

    The normal energy needs a floor: directions in which normals hardly vary would win by noise.
    """
    m = len(s_normal)
    _, vectors = linalg.eigh(s_negative, s_normal, subset_by_index=[m - count, m - 1])
    vectors = vectors[:, ::-1]
    return vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(count)])


def insensitive_directions(normal: np.ndarray, negative: np.ndarray, count: int) -> np.ndarray:
    """The directions that the closed form would choose for B, of the whole space instead of U_c.

    Args:
        normal: X⁺, float (N, m).
        negative: X⁻, float (M, m).
        count: how many, at most m.

    Returns:
        float64 (m, min(count, m)), each of normal energy 1: a distance counts each alike.
    """
    moment, m = second_moment(normal), normal.shape[1]
    ridge = RIDGE * max(np.trace(moment) / m, np.finfo(np.float32).tiny) * np.eye(m)
    return _standing_out(moment + ridge, second_moment(negative), min(count, m))


def fit_in_closed_form(normal: np.ndarray, negative: np.ndarray, r: int) -> LinearLISAE:
    """Phase 1 and 2 on second moments alone: no γ, no gradient, no iteration.

    ‖U_r Eᵀ x − x‖² = ‖Bᵀc‖² + ‖c‖² (section 4.1). The r columns of B are the directions of the
    orthogonal complement in which negatives have most energy for each unit of normal energy: the
    first generalised eigenvectors of their second moments, each with the same normal energy. The
    common scale of B, which γ would set, is `DOMINANCE`: large enough that the first term decides.

    Args:
        normal: X⁺, float (N, m).
        negative: X⁻, float (M, m).
        r: latent size, at most m / 2.

    Raises:
        ValueError: r is too large.
    """
    m = normal.shape[1]
    if not 1 <= r <= m // 2:
        raise ValueError(f"r must be 1 to {m // 2}, not {r}")
    moment = second_moment(normal)
    u_r, u_c = _principal_axes(moment, r)
    s_normal = u_c.T @ moment @ u_c
    s_negative = u_c.T @ second_moment(negative) @ u_c
    floor = RIDGE * np.trace(moment) / m
    b = _standing_out(s_normal + floor * np.eye(m - r), s_negative, r)
    energy = np.trace(b.T @ s_normal @ b)
    own = max(np.trace(s_normal), np.finfo(np.float64).tiny)
    return LinearLISAE(u_r, u_c, b * np.sqrt(DOMINANCE * own / max(energy, 1e-300)))


def _starting_b(c_normal: np.ndarray, c_negative: np.ndarray, r: int) -> np.ndarray:
    """Directions where negatives vary and normals do not; B = 0 is a stationary point."""
    size = c_normal.shape[1]
    s_normal = c_normal.T @ c_normal / len(c_normal)
    s_negative = c_negative.T @ c_negative / len(c_negative)
    ridge = 1e-6 * max(np.trace(s_normal) / size, 1e-12)
    few = min(r, size)
    _, vectors = linalg.eigh(
        s_negative, s_normal + ridge * np.eye(size), subset_by_index=[size - few, size - 1]
    )
    b = np.zeros((size, r))
    b[:, :few] = vectors[:, ::-1] / np.linalg.norm(vectors[:, ::-1], axis=0)
    return 0.1 * b


def fit_linear(
    normal: np.ndarray,
    negative: np.ndarray,
    r: int,
    *,
    gamma: float,
    beta: float = 1.0,
    iterations: int = 200,
    subspace: tuple[np.ndarray, np.ndarray] | None = None,
) -> LinearLISAE:
    """Phase 1 by SVD, phase 2 by L-BFGS over B with U_r unchanged.

    Minimises mean‖U_r Eᵀ x⁺ − x⁺‖² + β · mean max(0, γ − ‖U_r Eᵀ x⁻ − x⁻‖²) (section 4.1 with
    the hinge of `losses`), where ‖U_r Eᵀ x − x‖² = ‖Bᵀc‖² + ‖c‖².

    Args:
        normal: X⁺, float (N, m).
        negative: X⁻, float (M, m).
        r: latent size, below m.
        gamma: on the scale of ‖x̂ − x‖² (a sum over m, not a mean).
        beta: weight of the negatives.
        iterations: of L-BFGS, at most.
        subspace: what `principal_subspace` gives, where that is known already.
    """
    u_r, u_c = subspace or principal_subspace(normal, r)
    c_normal, c_negative = normal @ u_c, negative @ u_c
    own_negative = np.sum(np.square(c_negative), axis=1)
    s_normal = c_normal.T @ c_normal / len(c_normal)
    shape = (u_c.shape[1], r)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        b = flat.reshape(shape)
        pulled = s_normal @ b
        projected = c_negative @ b
        short = gamma - own_negative - np.sum(np.square(projected), axis=1)
        active = short > 0
        value = np.sum(b * pulled) + beta * np.sum(short[active]) / len(short)
        push = c_negative[active].T @ projected[active] / len(short)
        return value, 2 * (pulled - beta * push).ravel()

    start = _starting_b(c_normal, c_negative, r).ravel()
    found = optimize.minimize(
        objective, start, jac=True, method="L-BFGS-B", options={"maxiter": iterations}
    )
    return LinearLISAE(u_r, u_c, found.x.reshape(shape))
