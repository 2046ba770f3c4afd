"""Until convergence: early stopping, best weights and an exact checkpoint at each epoch's end.

Keras' EarlyStopping and BackupAndRestore forget patience and best weights over a restart; this
callback keeps both, with the optimiser's slots, in one file.
"""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import keras
import numpy as np

from lisae_tf.core.arrays import Arrays, load_arrays, save_arrays
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import sha256
from lisae_tf.model.checkpoints import set_weights, weights_of
from lisae_tf.runs.files import CONFIG
from lisae_tf.training.distribution import is_chief

_RECORD = {"phase", "attempt", "state", "earlier_history", "restart_seeds"}


def _settings_beside(checkpoint: Path) -> str | None:
    """The digest of the settings that a checkpoint lies beside; None where there are none."""
    settings = checkpoint.with_name(CONFIG)
    return sha256(settings) if settings.is_file() else None


@dataclass(frozen=True)
class ResumePoint:
    """Where a run stands: what the checkpoint file holds, or an untouched beginning."""

    path: Path | None = None
    phase: int = 1
    attempt: int = 0
    state: dict = field(default_factory=dict)
    weights: Arrays = field(default_factory=dict)
    best: Arrays = field(default_factory=dict)
    optimizer: Arrays = field(default_factory=dict)
    phase1_weights: Arrays = field(default_factory=dict)
    earlier_history: tuple[dict, ...] = ()
    restart_seeds: tuple[int, ...] = ()

    @classmethod
    def load(cls, path: Path | None) -> "ResumePoint":
        """Reads the checkpoint; a missing file is a fresh start."""
        if path is None or not path.exists():
            return cls(path)
        arrays, record = load_arrays(path)
        if not record.keys() >= _RECORD:
            raise LisaeError(
                f"{path} is no checkpoint; restore it, or train again into another --out"
            )
        own = _settings_beside(path)
        if record.get("settings", own) != own:
            raise LisaeError(
                f"{path} is another run's; restore it, or train again into another --out"
            )

        def part(prefix: str) -> Arrays:
            return {
                name.removeprefix(prefix): array
                for name, array in arrays.items()
                if name.startswith(prefix)
            }

        return cls(
            path, record["phase"], record["attempt"], record["state"],
            part("weights:"), part("best:"), part("optimizer:"), part("phase1:"),
            tuple(record["earlier_history"]), tuple(record["restart_seeds"]),
        )  # fmt: skip

    def next_phase(
        self, weights: Arrays, history: list[dict], restarts: list[int]
    ) -> "ResumePoint":
        """The beginning of phase 2, written down at once."""
        point = ResumePoint(
            self.path, 2, 0, phase1_weights=weights,
            earlier_history=tuple(history), restart_seeds=tuple(restarts),
        )  # fmt: skip
        point.save()
        return point

    def save(self) -> None:
        """Writes the file, whole or not at all."""
        if self.path is None or not is_chief():
            return
        parts = {
            "weights:": self.weights,
            "best:": self.best,
            "optimizer:": self.optimizer,
            "phase1:": self.phase1_weights,
        }
        arrays = {prefix + name: a for prefix, part in parts.items() for name, a in part.items()}
        record = {
            "phase": self.phase,
            "attempt": self.attempt,
            "state": self.state,
            "earlier_history": list(self.earlier_history),
            "restart_seeds": list(self.restart_seeds),
            "settings": _settings_beside(self.path),
        }
        save_arrays(self.path, arrays, record)


class Convergence(keras.callbacks.Callback):
    """Stops a phase when its held-out loss has not improved for `patience` epochs.

    Epochs on a plateau (`plateau` names a logged value and its ceiling) do not use up patience:
    a network that still paints the mean picture has not converged.
    """

    def __init__(
        self,
        point: ResumePoint,
        *,
        phase: int,
        attempt: int,
        epochs: int,
        patience: int,
        plateau: tuple[str, float] | None = None,
        section: str | None = None,
    ):
        super().__init__()
        same = bool(point.state) and (point.phase, point.attempt) == (phase, attempt)
        self._point = (
            point if same else replace(
                point, phase=phase, attempt=attempt, state={}, weights={}, best={}, optimizer={}
            )
        )  # fmt: skip
        self.phase, self.epochs, self.patience, self.plateau = phase, epochs, patience, plateau
        self._section = section or ("feature_extraction", "latent_shaping")[phase - 1]
        state = self._point.state
        self.history: list[dict] = list(state.get("history", []))
        self.best_epoch: int = state.get("best_epoch", -1)
        self.waited: int = state.get("waited", 0)
        self.finished: bool = state.get("finished", False)
        self._best: Arrays = dict(self._point.best)

    def attach(self, model: keras.Model) -> int:
        """Puts stored weights and optimiser slots into `model`; returns the next epoch."""
        self.set_model(model)
        model.optimizer.build(model.trainable_variables)
        if self._point.weights:
            set_weights(model, self._point.weights)
            stored = self._point.optimizer.values()
            for slot, value in zip(model.optimizer.variables, stored, strict=True):
                slot.assign(value)
        return len(self.history)

    def best_of(self, name: str) -> float:
        """A logged value of the best epoch."""
        return self.history[self.best_epoch][name]

    def restore_best(self) -> None:
        """The weights of the best epoch, back in the model."""
        set_weights(self.model, self._best)

    def on_epoch_begin(self, epoch, logs=None):
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        values = {name: float(value) for name, value in (logs or {}).items()}
        if not np.isfinite(values["val_loss"]):
            raise LisaeError(
                f"phase {self.phase} diverged in epoch {epoch + 1}; lower "
                f"{self._section}.learning_rate"
            )
        self.history.append(
            {"phase": self.phase, "attempt": self._point.attempt, "epoch": epoch + 1, **values,
             "seconds": time.perf_counter() - self._began}
        )  # fmt: skip
        improved = self.best_epoch < 0 or values["val_loss"] < self.best_of("val_loss")
        on_plateau = self.plateau is not None and values[self.plateau[0]] >= self.plateau[1]
        if improved:
            self.best_epoch, self._best = epoch, weights_of(self.model)
        self.waited = 0 if improved or on_plateau else self.waited + 1
        self.finished = self.waited >= self.patience or epoch + 1 >= self.epochs
        self.model.stop_training = self.finished
        self._save()

    def _save(self) -> None:
        state = {
            "history": self.history,
            "best_epoch": self.best_epoch,
            "waited": self.waited,
            "finished": self.finished,
        }
        slots = {f"{i}": slot.numpy() for i, slot in enumerate(self.model.optimizer.variables)}
        replace(
            self._point, state=state, weights=weights_of(self.model), best=self._best,
            optimizer=slots,
        ).save()  # fmt: skip
