"""The gate: the exported model, loaded back in its own runtime, must score as Keras does.

Within bounds: what an export may change.
"""

import importlib.metadata
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.exportable import Exportable, Samples
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import write_json
from lisae_tf.evaluation.metrics import Scored, auroc, evaluate
from lisae_tf.exported import model_record
from lisae_tf.exported.runtimes import Model, open_model
from lisae_tf.runs.folders import MEASURED

BATCHES = (1, 2, 7, 64)  # as far as the runtime is given so many large pictures at once
# So many batches of a size; more of the same say nothing new.
ROUNDS = 16
PACKAGES = {"onnx": "onnxruntime", "tflite": "ai-edge-litert", "savedmodel": "tensorflow"}


@dataclass(frozen=True)
class Bounds:
    """What an export may change.

    Attributes:
        relative: of scores: |a - b| <= relative·|b| + 1e-7; None where scores are free. Where
            scores take both signs, |b| is at least that of a usual score: see `usual_score`.
        auroc: between Keras and the export.
        band: decisions are not compared where |b - α| <= band·|α| + 1e-7; likewise.
        agreement: share of real pictures outside the band that are decided equally.
        distinct: share of Keras' distinct scores on real pictures that must stay distinct.
    """

    relative: float | None
    auroc: float
    band: float
    agreement: float
    distinct: float


BOUNDS = {
    None: Bounds(relative=1e-4, auroc=1e-4, band=1e-4, agreement=1.0, distinct=0.99),
    "fp16": Bounds(relative=None, auroc=0.002, band=0.01, agreement=0.98, distinct=0.99),
    "int8": Bounds(relative=None, auroc=0.01, band=0.05, agreement=0.98, distinct=0.95),
}
ABSOLUTE = 1e-7


def usual_score(reference: np.ndarray) -> float:
    """What differences are measured against near 0, where scores take both signs; else 0.

    An error of 0 is a perfect picture. A logit of 0 is a score like any other, and no runtime
    keeps it to a share of itself.
    """
    return float(np.median(np.abs(reference))) if np.min(reference) < 0 else 0.0


def check_parity(
    path: Path, exportable: Exportable, samples: Samples, say: Callable[[str], None]
) -> dict[str, Any]:
    """Compares and writes `parity.json` beside the model.

    Args:
        path: the exported file or version folder.
        exportable: what was exported, with the Keras detector.
        samples: the pictures.
        say: takes the lines of a short table.

    Returns:
        The record in `parity.json`.

    Raises:
        LisaeError: the export does not score as Keras does.
    """
    model = open_model(path)
    kind, quantization = exportable.record["kind"], exportable.record["quantization"]
    bounds = BOUNDS[quantization]
    record: dict[str, Any] = {
        "format": kind + (f" {quantization}" if quantization else ""),
        "runtime": f"{PACKAGES[kind]} {importlib.metadata.version(PACKAGES[kind])}",
        "reference": f"keras {importlib.metadata.version('keras')}",
        "batches": _sizes(model),
        "bounds": asdict(bounds) | {"absolute": ABSOLUTE},
        "threshold": exportable.alpha,
        "exported_threshold": model.threshold,
        "scores": {},
    }
    failures: list[str] = []
    usual = usual_score(exportable.detector.score(samples.real))
    for name, pictures in samples.kinds.items():
        reference = exportable.detector.score(pictures)
        compared = _compare(model, pictures, reference, exportable.alpha, bounds, usual)
        record["scores"][name] = compared | {"pictures": len(pictures)}
        failures += _faults(name, compared, bounds)
    if not failures:
        record |= _on_real(model, exportable, samples, bounds, failures)
        record |= _on_request(model, exportable, samples, bounds, failures)
    if not failures and kind == "savedmodel":
        from export.parity_bytes import check_encoded

        record["encoded"] = check_encoded(model, exportable, samples, failures)
    for line in _table(record):
        say(line)
    if failures:
        raise LisaeError(
            f"the exported {record['format']} model does not score as the trained one: "
            f"{'; '.join(failures)}. Nothing was written; choose another --format or --quantize"
        )
    record["passed"] = True
    write_json((path if path.is_dir() else path.parent) / model_record.PARITY, record)
    return record


def _sizes(model: Model) -> list[int]:
    return sorted({min(size, model.batch_size) for size in BATCHES})


def _batched(pictures: np.ndarray, size: int) -> Iterator[slice]:
    last = min(len(pictures), ROUNDS * size)
    return (slice(start, min(start + size, last)) for start in range(0, last, size))


def _compare(
    model: Model,
    pictures: np.ndarray,
    reference: np.ndarray,
    alpha: float,
    bounds: Bounds,
    usual: float,
) -> dict[str, Any]:
    """The worst differences over all batch sizes."""
    around = bounds.band * max(abs(alpha), usual) + ABSOLUTE
    worst, absolute, excess, differing, finite = 0.0, 0.0, 0.0, 0, True
    for size in _sizes(model):
        for part in _batched(pictures, size):
            found, expected = model.run(pictures[part]), reference[part].astype(np.float64)
            score, decided = found["score"], found["is_anomaly"]
            if score.shape != expected.shape or decided.shape != expected.shape:
                raise LisaeError(
                    f"the exported graph gives scores of shape {score.shape} for {size} pictures, "
                    "so nothing was written; choose another --format or --quantize"
                )
            finite &= bool(np.isfinite(score).all())
            gap = np.abs(np.nan_to_num(score.astype(np.float64)) - expected)
            magnitude = np.maximum(np.abs(expected), usual)
            worst = max(worst, float(np.max(gap / np.maximum(magnitude, 1e-12))))
            absolute = max(absolute, float(np.max(gap)))
            if bounds.relative is not None:
                allowed = bounds.relative * magnitude + ABSOLUTE
                excess = max(excess, float(np.max(gap / allowed)))
            outside = np.abs(expected - alpha) > around
            differing += int(np.sum((decided != (expected > alpha)) & outside))
            # A decision that does not follow from the model's own score is never right.
            differing += int(np.sum(decided != (score > np.float32(model.threshold))))
    return {
        "worst_relative": worst,
        "worst_absolute": absolute,
        "share_of_bound": excess if bounds.relative is not None else None,
        "decisions_differ": differing,
        "finite": finite,
    }


def _faults(name: str, compared: dict[str, Any], bounds: Bounds) -> list[str]:
    if not compared["finite"]:
        return [f"{name}: scores are NaN or infinite"]
    faults = []
    if bounds.relative is not None and compared["share_of_bound"] > 1:
        faults.append(f"{name}: scores differ by {compared['worst_relative']:.1e}")
    if bounds.agreement == 1 and compared["decisions_differ"]:
        faults.append(f"{name}: {compared['decisions_differ']} decisions differ")
    return faults


def _on_real(
    model: Model, exportable: Exportable, samples: Samples, bounds: Bounds, failures: list[str]
) -> dict[str, Any]:
    """What is judged on all real pictures at once: AUROC, distinct scores, decisions."""
    reference, alpha = exportable.detector.score(samples.real), exportable.alpha
    found = model.run(samples.real)
    pair = [
        auroc(s[~samples.is_anomaly], s[samples.is_anomaly]) for s in (reference, found["score"])
    ]
    distinct = [len(np.unique(scores)) for scores in (reference, found["score"])]
    around = bounds.band * max(abs(alpha), usual_score(reference)) + ABSOLUTE
    outside = np.abs(reference - alpha) > around
    equal = found["is_anomaly"][outside] == (reference[outside] > alpha)
    agreement = float(np.mean(equal)) if len(equal) else 1.0
    # Of very few pictures a single one is a large share, and says nothing: where scores are free,
    # one decision and one pair in another order pass.
    one = bounds.relative is None
    pairs = int(samples.is_anomaly.sum()) * int((~samples.is_anomaly).sum())
    if abs(pair[0] - pair[1]) > max(bounds.auroc, one / max(pairs, 1) + ABSOLUTE):
        failures.append(f"AUROC {pair[1]:.4f} instead of {pair[0]:.4f}")
    if distinct[1] < bounds.distinct * distinct[0]:
        failures.append(f"{distinct[1]} distinct scores instead of {distinct[0]}")
    if agreement < bounds.agreement and np.sum(~equal) > one:
        failures.append(f"{100 * (1 - agreement):.1f} % of the decisions differ")
    tested = samples.is_test
    measured = evaluate(Scored(found["score"][tested], samples.is_anomaly[tested]), model.threshold)
    return {
        "measured": {key: measured.get(key) for key in MEASURED},
        "auroc": {
            "reference": pair[0],
            "exported": pair[1],
            "difference": abs(pair[0] - pair[1]),
            "against": samples.anomalies,
        },
        "distinct": {"reference": distinct[0], "exported": distinct[1]},
        "agreement": {"share": agreement, "outside_band": int(outside.sum())},
    }


def _on_request(
    model: Model, exportable: Exportable, samples: Samples, bounds: Bounds, failures: list[str]
) -> dict[str, Any]:
    """Another threshold at call time, and the map of errors where there is one."""
    pictures = samples.real[:: max(1, len(samples.real) // 64)]
    other = float(np.median(exportable.detector.score(pictures)))
    found = model.run(pictures, threshold=other)
    if not np.array_equal(found["is_anomaly"], found["score"] > np.float32(other)):
        failures.append("a threshold given at call time is not the one that decides")
    if not exportable.has_maps:
        return {}
    maps, reference = model.error_maps(pictures), exportable.detector.error_maps(pictures)
    # Of the highest place: errors of pixels and of anything else are on scales of their own.
    gap = np.abs(maps - reference) / max(float(np.max(reference)), ABSOLUTE)
    worst = float(np.max(gap)) if np.isfinite(gap).all() else None
    if worst is None or (bounds.relative is not None and worst > bounds.relative):
        failures.append(f"the map of errors differs by {worst}, relative to its highest place")
    return {"error_map_worst_relative": worst}


def _table(record: dict[str, Any]) -> Iterator[str]:
    batches = ", ".join(map(str, record["batches"]))
    yield f"{record['format']} in {record['runtime']} against Keras, batch {batches}:"
    for name, each in record["scores"].items():
        yield (
            f"  {name:6} {each['pictures']:5} pictures  worst relative difference "
            f"{each['worst_relative']:.1e}  decisions that differ {each['decisions_differ']}"
        )
    if "auroc" in record:
        pair, distinct = record["auroc"], record["distinct"]
        yield (
            f"  AUROC {pair['reference']:.5f} -> {pair['exported']:.5f} ({pair['against']}), "
            f"distinct scores {distinct['reference']} -> {distinct['exported']}"
        )
    for name, each in record.get("encoded", {}).get("formats", {}).items():
        yield (
            f"  {name} bytes of other sizes against Pillow: at most {each['worst_levels']} of 255 "
            f"levels, score {each['worst_relative']:.1e}"
        )
