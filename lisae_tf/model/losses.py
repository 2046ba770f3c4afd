"""The paper's losses, on the one error measure that training, scoring and export share.

e(x) is ‖x̂ − x‖² divided by H·W·C: the per-pixel mean of the squared error on 0-1 pictures.
γ, α and every score are on this scale.
"""

from collections.abc import Callable

import tensorflow as tf
from keras import ops


def squared_error(x, x_hat):
    """(x̂ − x)² of each value: float32 (N, ...) twice -> float32 (N, ...)."""
    return ops.square(x_hat - x)


def reconstruction_error(x, x_hat):
    """e(x) = ‖x̂ − x‖² / (H·W·C) (section 3.3).

    Args:
        x: float32 (N, ...) in 0-1.
        x_hat: its reconstruction, same shape.

    Returns:
        float32 (N,).
    """
    return ops.mean(squared_error(x, x_hat), axis=tuple(range(1, len(x.shape))))


# The paper writes ‖γ − e‖² and is "satisfied if the error exceeds" γ. "literal" is what is
# written: it also pulls errors back to γ once past it. The hinges stop at γ.
HINGES: dict[str, Callable] = {
    "hinge": lambda error, gamma: ops.relu(gamma - error),
    "squared-hinge": lambda error, gamma: ops.square(ops.relu(gamma - error)),
    "literal": lambda error, gamma: ops.square(gamma - error),
}


def negative_loss(error, gamma: float, hinge: str = "hinge"):
    """The second term of equation 4 before β, for each negative: (N,) -> (N,)."""
    return HINGES[hinge](error, gamma)


def separation_loss(normal_logit, negative_logit):
    """LinSep's binary cross-entropy, normal against negative (end of section 4.2).

    Args:
        normal_logit: (N, 1), one linear logit of the latent pre-activation; large is normal.
        negative_logit: (M, 1).

    Returns:
        A scalar; both sides weigh the same whatever N and M are.
    """
    return (ops.mean(ops.softplus(-normal_logit)) + ops.mean(ops.softplus(negative_logit))) / 2


def mean_over_replicas(loss: tf.Tensor) -> tf.Tensor:
    """This replica's share of the loss: gradients are summed over replicas."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return loss / replicas if replicas > 1 else loss
