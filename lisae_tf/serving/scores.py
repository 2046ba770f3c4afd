"""What both clients offer on top of `predict`: scores of pictures, in batches.

Runs without TensorFlow.
"""

import abc
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lisae_tf.core.errors import LisaeError
from lisae_tf.data.pictures import BadPicture, portable
from lisae_tf.exported.signatures import Refused

AVAILABLE = "AVAILABLE"
# Of pictures in a request, unless one alone has more: as JSON they become up to five times as long,
# and the server takes 16 MiB.
REQUEST_BYTES = 2**21


@dataclass(frozen=True)
class Scores:
    """Answers for N pictures: score float32 (N,), is_anomaly bool (N,)."""

    score: np.ndarray
    is_anomaly: np.ndarray


@dataclass(frozen=True)
class VersionStatus:
    """A version's number, its state as in "AVAILABLE", and what went wrong, if anything."""

    version: int
    state: str
    error: str = ""


class ScoringClient(abc.ABC):
    """A client of one model.

    Args:
        model: the model's name.
        version: ask this version; the newest by default.
        label: ask the version with this label instead.
        timeout: seconds for one answer.
        retries: how often a request is sent again when it was refused for load or while the
            server was away. Scoring changes nothing on the server, so that is safe; a request
            that timed out may still be running and is not sent again.
    """

    def __init__(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float = 10.0,
        retries: int = 2,
    ):
        if version is not None and label is not None:
            raise LisaeError("a version and a label exclude each other; give one of them")
        self.model = model
        self.version = version
        self.label = label
        self.timeout = timeout
        self.retries = retries

    @abc.abstractmethod
    def predict(
        self, inputs: Mapping[str, np.ndarray | Sequence[bytes]], signature: str = ""
    ) -> dict[str, np.ndarray]:
        """Runs a signature on arrays by name; byte strings as a list."""

    @abc.abstractmethod
    def status(self) -> list[VersionStatus]:
        """The states of the versions."""

    def score(
        self, images: np.ndarray, threshold: float | None = None, batch_size: int = 64
    ) -> Scores:
        """Scores pictures of the model's own size.

        Args:
            images: uint8 (N, H, W, C).
            threshold: decide by this one instead of the model's.
            batch_size: pictures in a request, fewer of large ones.

        Raises:
            LisaeError: no answer, or a refusal.
        """
        if threshold is None:
            return self._batches(({"image": part} for part in _parts(images, batch_size)), "")
        alpha = np.float32(threshold)
        inputs = (
            {"image": part, "threshold": np.full(len(part), alpha)}
            for part in _parts(images, batch_size)
        )
        return self._batches(inputs, "with_threshold")

    def score_encoded(self, pictures: Sequence[bytes], batch_size: int = 64) -> Scores:
        """Scores encoded pictures of any size and of every kind that `score` reads from files.

        What a model does not decode itself, a TIFF or a turned photograph, say, is sent as PNG.

        Args:
            pictures: the bytes of the files.
            batch_size: pictures in a request, fewer of large ones.

        Raises:
            LisaeError: no answer, or a refusal; one bad picture spoils its request.
        """
        sent = [_sent(data) for data in pictures]
        inputs = ({"image_bytes": part} for part in _parts(sent, batch_size))
        return self._batches(inputs, "score_bytes")

    def error_maps(self, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
        """Where in pictures of the model's own size their errors lie.

        Args:
            images: uint8 (N, H, W, C), one at least.
            batch_size: pictures in a request, fewer of large ones.

        Returns:
            float32 (N, h, w), which may be smaller than the pictures.

        Raises:
            LisaeError: no answer, or a refusal, as of a model without maps.
        """
        parts = _parts(images, batch_size)
        # A sole output may come without its name.
        answers = [self.predict({"image": part}, "error_map").values() for part in parts]
        return np.concatenate([np.asarray(each, np.float32) for (each,) in answers])

    def wait(self, seconds: float = 60.0) -> None:
        """Returns when a version is there to answer.

        Raises:
            LisaeError: none is there in time.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                if any(each.state == AVAILABLE for each in self.status()):
                    return
                reason = "no version is available"
            except Refused as error:
                reason = str(error)
            if time.monotonic() > end:
                raise LisaeError(f"waited {seconds:g} s for '{self.model}': {reason}")
            time.sleep(0.1)

    def _batches(self, inputs: Iterator[Mapping], signature: str) -> Scores:
        answers = [self.predict(each, signature) for each in inputs]
        try:
            score = [np.asarray(each["score"], np.float32) for each in answers]
            decision = [np.asarray(each["is_anomaly"], bool) for each in answers]
        except (KeyError, ValueError) as error:
            raise LisaeError(
                f"'{self.model}' gives no 'score' and 'is_anomaly'; ask a model that lisae exported"
            ) from error
        return Scores(
            np.concatenate([np.empty(0, np.float32), *score]),
            np.concatenate([np.empty(0, bool), *decision]),
        )


def _sent(data: bytes) -> bytes:
    try:
        return portable(data)
    except BadPicture:
        return data  # the server refuses it, as it does for other clients


def _parts(values, size: int) -> Iterator:
    """Slices of at most `size` pictures that a request can hold; arrays or byte strings."""
    start = held = 0
    for place, value in enumerate(values):
        own = value.nbytes if isinstance(value, np.ndarray) else len(value)
        if place > start and (place - start == size or held + own > REQUEST_BYTES):
            yield values[start:place]
            start, held = place, 0
        held += own
    if len(values) > start:
        yield values[start:]
