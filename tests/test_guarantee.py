"""The rate that a threshold promises, on real pictures split 200 times; minutes ('make slow').

`INSPECTION_DATA_DIR` names a folder with `train/good`, as of MVTec's sets. Splits of one set of
pictures are drawn independently, so the mean share of normal test pictures above the threshold may
exceed the rate asked for by no more than a few of its standard errors over the splits.
What the last run measured lies in results/slow.json with its date and version.
"""

import contextlib
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lisae_tf.core.thresholds import choose_threshold
from lisae_tf.data import picture_files
from lisae_tf.exported.runtimes import open_model

SPLITS, ERRORS = 200, 3  # and how many standard errors the mean may lie above the rate
RATES = (0.05, 0.1)
SEEN = 100  # pictures that runs train on; all others are dealt to calibration and test
given = os.environ.get("INSPECTION_DATA_DIR")
GOOD = Path(given or ".") / "train" / "good"
pytestmark = [
    pytest.mark.slow("200 divisions of real pictures"),
    pytest.mark.skipif(
        not given or not GOOD.is_dir(),
        reason="INSPECTION_DATA_DIR names no folder with train/good",
    ),
    pytest.mark.filterwarnings("ignore:.*calibration samples? supports?:UserWarning"),
]
# `train` options: what own folders get at a smaller size, and the paper's network.
KINDS = {
    "features": ("--set", "data.size=[128,128]"),
    "pixels": (
        *("--features", "none", "--set", "data.size=[64,64]", "--set", "network.latent=16"),
        *("--set", "feature_extraction.epochs=6", "--set", "latent_shaping.epochs=3"),
    ),
}
IN_CLOSED_FORM = {"latent_shaping": {"closed_form": True}}
HALVES = {"data": {"calibration_fraction": 0.4, "test_fraction": 0.4}}
EXPORTS = {"float": (), "fp16": ("--quantize", "fp16"), "int8": ("--quantize", "int8")}


def write_pictures(base: Path, copies: float = 0.0) -> list[Path]:
    """Folders `seen`, `later` and `unseen` of the pictures, in random order.

    Args:
        base: where.
        copies: share of pictures that get a near copy beside them; 0 where nothing keeps near
            copies in one part.
    """
    random = np.random.default_rng(0)
    found = list(random.permutation(picture_files.find(GOOD)))
    folders = [base / name for name in ("seen", "later", "unseen")]
    parts = (found[:SEEN], found[SEEN : SEEN + SEEN // 3], found[SEEN + SEEN // 3 :])
    for folder, part in zip(folders, parts, strict=True):
        folder.mkdir(parents=True)
        for number, path in enumerate(part):
            with Image.open(path) as picture:
                small = picture.convert("RGB").resize((128, 128), Image.Resampling.BOX)
            small.save(folder / f"{number:04d}.png")
            if random.random() < copies:
                noisy = np.asarray(small) + random.integers(-1, 2, (128, 128, 3))
                again = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
                again.save(folder / f"{number:04d}-again.png")
    return folders


def shares_above(scores, thresholds_from, rate, seed=0):
    """Of each split of the scores into halves: the share of the second above the threshold.

    Args:
        scores: of the file that decides, float (N,).
        thresholds_from: of the file that the threshold is chosen from, (N,).
        rate: asked for.
    """
    random, found, promised = np.random.default_rng(seed), [], []
    for _ in range(SPLITS):
        order = random.permutation(len(scores))
        calibration, test = np.split(order, [len(order) // 2])
        chosen = choose_threshold(thresholds_from[calibration], rate, nearest=True)
        found.append(np.mean(scores[test] > chosen.alpha))
        promised.append(chosen.guaranteed_fpr)
    return np.array(found), float(np.mean(promised))


def told(found, promised):
    """What is kept of the splits."""
    mean, error = float(np.mean(found)), float(np.std(found, ddof=1) / np.sqrt(len(found)))
    return {"mean": round(mean, 5), "error": round(error, 5), "promised": round(promised, 5)}


def assert_kept(each):
    assert each["mean"] <= each["promised"] + ERRORS * each["error"]


@pytest.mark.parametrize("kind", KINDS)
def test_exports_keep_their_rate_before_and_after_continuing(kind, tmp_path, cli, measured):
    """One training, its float, float16 and int8 file; then trained on, and the same again.

    The files score every picture that no training has seen once; what is drawn 200 times is which
    of these calibrate and which test, for that chance is what the promise speaks of.
    """
    seen, later, unseen = write_pictures(tmp_path)
    images = None
    results = {}
    with contextlib.chdir(tmp_path):
        for name, options in {
            "trained": ("--normal-dir", seen, *KINDS[kind]),
            "continued": ("--continue", "runs/trained", "--normal-dir", later),
        }.items():
            result = cli("train", "--quiet", *options, "--out", f"runs/{name}")
            assert result.exit_code == 0, result.output
            scores = {}
            for export, quantize in EXPORTS.items():
                result = cli("export", "--run", f"runs/{name}", "--format", "tflite", *quantize)
                assert result.exit_code == 0, result.output
                model = open_model(re.search(r"wrote (\S+)", result.output).group(1))
                if images is None:
                    from lisae_tf.data import pictures

                    images = pictures.decode_all(
                        picture_files.find(unseen), model.shape[:2], model.shape[2]
                    ).pixels
                scores[export] = model.score(images)
            for rate in RATES:
                for export, own in scores.items():
                    row = told(*shares_above(own, own, rate))
                    # For comparison: the float threshold in this file.
                    row["by_float"] = told(*shares_above(own, scores["float"], rate))["mean"]
                    results[f"{name}, {export}, {rate:g}"] = row
            shutil.rmtree("models")
    measured(unseen=len(images), splits=SPLITS, **results)
    for each in results.values():
        assert_kept(each)


def test_folders_keep_their_rate_where_every_picture_has_a_near_copy(tmp_path, cli, measured):
    """One training; what is divided 200 times, as `train` does it, are pictures it has not seen."""
    from lisae_tf.config.settings import merge, resolve
    from lisae_tf.data import pictures
    from lisae_tf.data.opened_folders import PARTS, divided
    from lisae_tf.detectors import load_detector

    seen, _, unseen = write_pictures(tmp_path, copies=1.0)
    with contextlib.chdir(tmp_path):
        result = cli("train", "--quiet", "--normal-dir", seen, *KINDS["features"], "--out", "run")
    assert result.exit_code == 0, result.output
    detector = load_detector(tmp_path / "run")
    found = pictures.decode_all(picture_files.find(unseen), detector.shape[:2], 3)
    scores, rows = np.asarray(detector.score(found.pixels)), {}
    for rate in RATES:
        shares, counted, promised = [], [], []
        for seed in range(SPLITS):
            config = resolve(merge(detector.config.model_dump(), {"seed": seed} | HALVES))
            own = divided(found, unseen, config, 0, "normal", with_test=True)
            part = dict(zip(PARTS, own.indices, strict=True))
            chosen = choose_threshold(scores[part["calibration"]], rate, nearest=True)
            shares.append(np.mean(scores[part["test"]] > chosen.alpha))
            promised.append(chosen.guaranteed_fpr)
            both = np.concatenate([part["calibration"], part["unused"]])
            alpha = choose_threshold(scores[both], rate, nearest=True).alpha
            counted.append(np.mean(scores[part["test"]] > alpha))
        row = told(np.array(shares), float(np.mean(promised)))
        # For comparison: as if each near copy were another picture.
        rows[f"{rate:g}"] = row | {"if_copies_counted": round(float(np.mean(counted)), 5)}
    measured(pictures=len(scores), splits=SPLITS, **rows)
    for each in rows.values():
        assert_kept(each)


@pytest.mark.parametrize("copies", [0.0, 1.0])
@pytest.mark.parametrize("variant", ["kde", "linear-lis"])
def test_the_estimator_keeps_its_rate_when_all_is_done_anew(variant, copies, measured):
    """Every split holds out a test, and trains, makes negatives and calibrates anew.

    Copies are exact ones, which the estimator keeps together and counts once.
    """
    from lisae_tf.data import pictures
    from lisae_tf.data.checks import thumbnails
    from lisae_tf.interfaces.estimator import LISAEDetector

    images = pictures.decode_all(picture_files.find(GOOD), (64, 64), 3).pixels
    rows = np.asarray(thumbnails(images), np.float64).reshape(len(images), -1)[:, ::4]
    more = {"kde": {}, "linear-lis": {"latent": 8, "settings": IN_CLOSED_FORM}}[variant]
    random, rate, shares, promised = np.random.default_rng(0), 0.1, [], []
    for split in range(SPLITS):
        order = random.permutation(len(rows))
        trained, test = np.split(rows[order], [3 * len(order) // 4])
        trained = np.concatenate([trained, trained[: round(copies * len(trained))]])
        detector = LISAEDetector(variant, false_positive_rate=rate, random_state=split, **more)
        detector.fit(trained)
        shares.append(np.mean(detector.predict(test) == -1))
        promised.append(detector.detector_.threshold_.guaranteed_fpr)
    row = told(np.array(shares), float(np.mean(promised)))
    measured(pictures=len(rows), splits=SPLITS, rate=rate, copies=copies, **row)
    assert_kept(row)
