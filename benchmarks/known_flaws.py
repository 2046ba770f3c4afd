"""What a few known flaws gain on inspection sets, and what trusting them blindly would.

Every candidate of `--known-dir` is trained once on each set's normal pictures. Then flaws are drawn
at random from its anomalies: half of them choose, and every anomaly that did not is the test. A
gain is the AUROC there with the settings chosen, less that with the usual ones.
"""

import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from lisae_tf import __version__
from lisae_tf.config.settings import CHOSEN, dataset_settings, merge, resolve
from lisae_tf.core.files import write_json
from lisae_tf.data.parts import halves
from lisae_tf.detectors import make_detector
from lisae_tf.detectors.known_flaws import Candidate, candidates, pick
from lisae_tf.detectors.places import MOST_HELD_OUT, evenly
from lisae_tf.features.negatives import MADE, NONE, pooled
from lisae_tf.features.places import Memo, remembering
from lisae_tf.inspection.cells import InspectionCell, InspectionSet, config_of, find_sets
from lisae_tf.inspection.measure import FEATURES_KEPT, load
from lisae_tf.inspection.records import ROWS
from lisae_tf.training.phase import TrainingOptions

FILE = Path(__file__).parents[1] / "results" / "inspection" / "known_flaws.json"
KNOWN, DRAWS = (10, 20, 30), 300
Scores = dict[Candidate, tuple[np.ndarray, np.ndarray]]


def candidate_scores(of: InspectionSet, seed: int) -> tuple[Scores, Candidate, np.ndarray, list]:
    """Every candidate's scores of held-out normal pictures and of the test.

    Returns:
        The scores; the usual settings; `is_anomaly` of the test pictures and their kinds.
    """
    usual = dataset_settings("folder")
    row = ROWS[f"{usual['variant']} {MADE}"]
    config = config_of(of, of.usual, row, seed)
    loaded = load(InspectionCell(config, Path(), of, of.usual, row))
    held_out = loaded.data.normal.stopping
    held_out = held_out[evenly(len(held_out), MOST_HELD_OUT)]
    default = Candidate(config.variant, MADE, config.scoring.highest_share)
    maps, scores = {}, {}
    with remembering(Memo(FEATURES_KEPT)):
        for each in candidates(CHOSEN, default, [MADE, NONE]):
            if each.trained not in maps:
                over = {"variant": each.variant}
                over |= {"features": {"negatives": each.negatives}} if each.negatives else {}
                detector = make_detector(resolve(merge(config.model_dump(), over)))
                data = loaded.data
                if not each.negatives:
                    data = replace(data, negative=None, negative_masks=None)
                detector.fit_data(data, TrainingOptions())
                maps[each.trained] = [
                    detector.error_maps(pixels).reshape(len(pixels), -1)
                    for pixels in (held_out, loaded.test.pixels)
                ]
            scores[each] = tuple(pooled(one, each.highest_share) for one in maps[each.trained])
    return scores, default, loaded.test.is_anomaly, list(loaded.test.kinds)


def drawn(
    scores: Scores,
    usual: Candidate,
    is_anomaly: np.ndarray,
    kinds: list[str],
    known: int,
    seed: int,
) -> dict[str, float]:
    """The mean over draws of so many known flaws."""
    generator = np.random.default_rng(seed)
    anomalies = np.flatnonzero(is_anomaly)
    changed, gains, blind = 0, [], []
    for _ in range(DRAWS):
        flaws = generator.choice(anomalies, known, replace=False)
        choosing, _ = halves(
            [kinds[k] for k in flaws], groups=np.arange(known), generator=generator
        )
        choosing = flaws[choosing]
        tested = np.setdiff1d(np.arange(len(is_anomaly)), choosing)
        found = {each: (normal, test[choosing]) for each, (normal, test) in scores.items()}
        chosen = pick(found, usual).candidate
        best = max(found, key=lambda each: _auroc(*found[each]))

        def gain(each: Candidate, tested=tested) -> float:
            areas = [
                roc_auc_score(is_anomaly[tested], scores[name][1][tested]) for name in (each, usual)
            ]
            return float(areas[0] - areas[1])

        changed += chosen != usual
        gains.append(gain(chosen))
        blind.append(gain(best))
    return {
        "changed": changed / DRAWS, "gain": float(np.mean(gains)),
        "gain_of_the_best": float(np.mean(blind)),
    }  # fmt: skip


def _auroc(normal: np.ndarray, flaws: np.ndarray) -> float:
    truth = np.repeat([0, 1], [len(normal), len(flaws)])
    return float(roc_auc_score(truth, np.concatenate([normal, flaws])))


def measure(data_dir: Path, seed: int = 0, path: Path = FILE) -> None:
    """Measures every set and writes the file.

    Args:
        data_dir: folder of sets in MVTec's layout.
        seed: of trainings and draws.
        path: of the file.
    """
    began, sets = time.perf_counter(), {}
    for of in find_sets(data_dir):
        scores, usual, is_anomaly, kinds = candidate_scores(of, seed)
        areas = {str(name): roc_auc_score(is_anomaly, test) for name, (_, test) in scores.items()}
        sets[of.name] = {
            "auroc": {name: round(float(area), 4) for name, area in areas.items()},
            "known": {
                str(known): drawn(scores, usual, is_anomaly, kinds, known, seed)
                for known in KNOWN
                if known < is_anomaly.sum()
            },
        }
    write_json(
        path,
        {
            "command": "python -m benchmarks known-flaws", "version": __version__,
            "date": datetime.now(UTC).date().isoformat(), "seed": seed, "draws": DRAWS,
            "duration": round(time.perf_counter() - began, 1), "usual": str(usual), "sets": sets,
        },
    )  # fmt: skip
