"""The model card (README.md) beside each artefact, from what is recorded of it.

Runs without TensorFlow.
"""

import json
from pathlib import Path

from lisae_tf.exported import artefacts
from lisae_tf.exported.artefacts import Record
from lisae_tf.files import write_text

_TITLES = {
    "auroc": "AUROC",
    "auroc_phase1": "AUROC after phase 1",
    "average_precision": "average precision",
    "fpr_at_95_tpr": "false-positive rate at 95 % detected",
    "false_positive_rate": "false-positive rate at the threshold",
    "detection_rate": "detection rate at the threshold",
    "auroc_negatives": "AUROC of held-out negatives (no measure of anomalies)",
}
_USE = {
    "onnx": "python cli.py score --model model.onnx YOUR_PICTURES",
    "tflite": "python cli.py score --model model.tflite YOUR_PICTURES",
    "savedmodel": "python cli.py score --model . YOUR_PICTURES",
}
_MORE = {
    "onnx": """\
- input `threshold`, float32 scalar, may be left out\
""",
    "tflite": """\
- signatures `serving_default` (image), `with_threshold` (image, threshold){error_map}\
""",
    "savedmodel": """\
- signatures `serving_default` (image), `with_threshold` (image, and one threshold or one for each
  picture; a server that batches takes the latter){error_map}, `score_bytes` (image_bytes, PNG or
  JPEG of any size), `classify` and `regress` (tf.train.Example with image_bytes)
- encoded pictures are decoded in the graph, within 2 of 255 levels and 1 % of the score of what
  `score` makes of the same file; EXIF orientation is not applied: the clients and `serve` of
  lisae-tf turn pictures upright and send TIFF, WebP and BMP as PNG before that\
""",
}


def write_model_card(folder: Path, record: Record, parity: dict | None) -> None:
    """Writes `README.md` into the artefact's folder.

    Args:
        folder: of the artefact.
        record: of the artefact.
        parity: what the gate found; None for a model that was calibrated anew.
    """
    write_text(folder / artefacts.CARD, model_card(record, parity))


def model_card(record: Record, parity: dict | None) -> str:
    """Markdown with a YAML header, as model hubs read it."""
    data, threshold = record["data"], record["threshold"]
    metrics = {key: value for key, value in record["metrics"].items() if value is not None}
    rows = "\n".join(
        f"| {title} | {metrics[key]:.4f} |" for key, title in _TITLES.items() if key in metrics
    )
    counts = f"{metrics.get('n_normal', 0)} normal pictures and {metrics.get('n_anomaly', 0)}"
    normal = ", ".join(data["normal"])
    stored = record["metadata"]
    return f"""---
{_header(record, metrics)}---

# {record["name"]}, version {record["version"]}

Finds pictures that are not like the normal ones it was trained on; variant
`{record["variant"]}`.

{stored["paper"]}.

## Use

```
{_USE[record["kind"]]}
```

- input `image`: {stored["input"]}, {stored["channel_order"]}, {stored["input_range"]}; scaling is
  part of the graph
- output `score`: float32 [batch], higher is more anomalous: {stored["description"]}
- output `is_anomaly`: bool [batch], whether the score is above the threshold
{_more(record)}

## Threshold

{_of_threshold(threshold)} It is a default: give
another with each call, or store one with `calibrate --model`, which needs normal pictures only.

## Data and protocol

Dataset {data["dataset"]}; normal: {normal}; negatives: {data["negatives"]}; protocol:
{data["protocol"]}. Neither the training nor the threshold has seen a test picture.

## Metrics of the run

On {counts} anomalies of the test part (seed {record["seed"]}, settings `{record["config_hash"]}`):

| measure | value |
|---|---|
{rows}

## Parity

{_parity(record, parity)}

## Limits and intended use

Intended for pictures from the same source as the normal ones: same camera, light and framing. A
score is no probability and compares with scores of this model alone. Pictures of another kind may
score low when they are easy to paint, such as plain ones. Measure on your own anomalies before you
rely on it, and calibrate the threshold anew when the source changes. Not for decisions about
people.
"""


def _of_threshold(threshold: dict) -> str:
    """What the threshold guarantees, if it was not set by hand."""
    alpha = f"{threshold['alpha']:.6g}"
    if threshold["guaranteed_fpr"] is None:
        return f"{alpha}, set by hand: it guarantees nothing of new pictures."
    return (
        f"{alpha}, chosen from the scores of {threshold['n_calibration']} held-out normal\n"
        "pictures: a new normal picture scores above it with probability at most\n"
        f"{threshold['guaranteed_fpr']:.4g} (asked for: {threshold['requested_fpr']:g})."
    )


def _more(record: Record) -> str:
    """What else can be given and asked for; records of earlier versions know of no maps."""
    found = record.get("error_map")
    if not found:
        return _MORE[record["kind"]].format(error_map="")
    height, width = found["shape"][1:]
    on_request = (
        f"- output `error_map`, on request: float32 [batch, {height}, {width}], where in the "
        "picture the error lies\n"
    )
    return on_request + _MORE[record["kind"]].format(error_map=", `error_map` (image)")


def _parity(record: Record, parity: dict | None) -> str:
    if parity is None:
        parent = record["parent"]
        return (
            f"Version {parent['version']} (SHA-256 `{parent['sha256']}`) with another threshold;\n"
            "every score is the same, bit for bit. The metrics above are by that version's "
            "threshold."
        )
    worst = max(each["worst_relative"] for each in parity["scores"].values())
    return (
        f"{parity['format']} in {parity['runtime']} against Keras on real pictures, noise, black "
        f"and white:\nscores differ by at most {worst:.1e}, relative. `parity.json` says more."
    )


def _header(record: Record, metrics: dict) -> str:
    """The YAML between the dashes; JSON values are YAML."""
    kinds = ("auroc", "average_precision", "false_positive_rate", "detection_rate")
    dataset = record["data"]["dataset"]
    results = [{"type": key, "value": round(metrics[key], 6)} for key in kinds if key in metrics]
    result = {
        "task": {"type": "image-anomaly-detection", "name": "Anomaly detection"},
        "dataset": {"name": dataset, "type": dataset},
        "metrics": results,
    }
    header = {
        "library_name": "lisae_tf",
        "tags": ["anomaly-detection", "autoencoder", "lis-ae", record["kind"]],
        "datasets": [dataset],
        "metrics": [each["type"] for each in results],
        "model-index": [{"name": record["name"], "results": [result]}],
    }
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in header.items())
