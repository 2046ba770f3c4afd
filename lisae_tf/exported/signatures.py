"""What a signature's inputs must look like, and the check of arrays against it.

Runs without TensorFlow.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lisae_tf.exported.codes import RequestError

STRINGS = np.dtype(object)


@dataclass(frozen=True)
class Tensor:
    """One input or output: NumPy's dtype (object for strings) and shape.

    Attributes:
        dtype: the element type.
        shape: None where a size is free; None for the whole where the rank is, which means a
            scalar or one value for each picture.
    """

    dtype: np.dtype
    shape: tuple[int | None, ...] | None

    def described(self) -> str:
        """The shape in words, as in [-1, 28, 28, 1]."""
        if self.shape is None:
            return "[] or [-1]"
        return str([-1 if size is None else size for size in self.shape])

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape can be fed."""
        if self.shape is None:
            return len(shape) <= 1
        pairs = zip(self.shape, shape, strict=False)
        return len(shape) == len(self.shape) and all(want in (None, got) for want, got in pairs)


@dataclass(frozen=True)
class Signature:
    """One signature of a SavedModel."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    method: str  # "predict", "classify" or "regress"

    def check(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Refuses inputs that are missing, unknown, or of another type or shape.

        Raises:
            RequestError: INVALID_ARGUMENT, as TensorFlow Serving has it.
        """
        if arrays.keys() != self.inputs.keys():
            wanted, given = sorted(self.inputs), sorted(arrays)
            raise RequestError(
                "INVALID_ARGUMENT",
                f"input size does not match signature: the inputs are {wanted}, given {given}",
            )
        for name, array in arrays.items():
            want = self.inputs[name]
            if array.dtype != want.dtype:
                raise RequestError(
                    "INVALID_ARGUMENT", f"input {name} is {want.dtype}, given {array.dtype}"
                )
            if not want.fits(array.shape):
                raise RequestError(
                    "INVALID_ARGUMENT",
                    f"input {name} has the shape {want.described()}, given {list(array.shape)}",
                )
