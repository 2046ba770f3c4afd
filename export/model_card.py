"""The model card (README.md) beside each artefact, from what is recorded of it.

Runs without TensorFlow.
"""

import json
from pathlib import Path

from lisae_tf.core.files import write_text
from lisae_tf.exported import model_record
from lisae_tf.exported.model_record import Record

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
- `serve` of lisae-tf decodes encoded pictures of every kind as `score` does. Elsewhere the graph
  decodes PNG and JPEG, within 2 of 255 levels of that (`parity.json` says what it did to scores of
  test pictures), and EXIF orientation is not applied: the clients of lisae-tf turn pictures upright
  and send TIFF, WebP and BMP as PNG

Ask a server (`serve`, or TensorFlow Serving) with curl:

```sh
base64 < picture.jpg | tr -d '\\n' |
  sed 's/.*/{{"signature_name": "score_bytes", "instances": [{{"b64": "&"}}]}}/' |
  curl -s -d @- http://127.0.0.1:8501/v1/models/{name}:predict
```

or with Python:

```python
import base64

import requests

with open("picture.jpg", "rb") as file:
    picture = {{"b64": base64.b64encode(file.read()).decode()}}
answer = requests.post(
    "http://127.0.0.1:8501/v1/models/{name}:predict",
    json={{"signature_name": "score_bytes", "instances": [picture]}},
    timeout=10,
)
answer.raise_for_status()
for found in answer.json()["predictions"]:
    print(found["score"], found["is_anomaly"])
```\
""",
}


def write_model_card(folder: Path, record: Record, parity: dict | None) -> None:
    """Writes `README.md` into the artefact's folder.

    Args:
        folder: of the artefact.
        record: of the artefact.
        parity: what the gate found; None for a model that was calibrated anew.
    """
    write_text(folder / model_record.CARD, model_card(record, parity))


def model_card(record: Record, parity: dict | None) -> str:
    """Markdown with a YAML header, as model hubs read it."""
    data = record["data"]
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

{_threshold(record)} It is a default: give another with each call, or store
one with `calibrate --model`, which needs normal pictures only.

## Data and protocol

Dataset {data["dataset"]}; normal: {normal}; negatives: {data["negatives"]}; protocol:
{data["protocol"]}. Neither the training nor the threshold has seen a test picture.

## Metrics of {"this file" if record.get("quantization") else "the run"}

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


def _threshold(record: Record) -> str:
    """What the threshold rests on, and what it promises."""
    threshold = model_record.threshold_of(record)
    alpha = f"{threshold.alpha:.6g}"
    if threshold.by_hand and record.get("quantization") and record["parent"] is None:
        return (
            f"{alpha}, that of the trained model, whose scores are others. The pictures that it "
            "was chosen\non were not there, if there were any: no false-alarm rate is promised."
        )
    if threshold.by_hand:
        return f"{alpha}, set by hand: it guarantees nothing of new pictures."
    scores = "this file's scores" if record.get("quantization") else "the scores"
    return (
        f"{alpha}, chosen from {scores} of {threshold.n_calibration} held-out normal\n"
        "pictures: a new normal picture scores above it with probability at most\n"
        f"{threshold.guaranteed_fpr:.4g} (asked for: {threshold.requested_fpr:g})."
    )


def _more(record: Record) -> str:
    """What else can be given and asked for; records of earlier versions know of no maps."""
    found = record.get("error_map")
    if not found:
        return _MORE[record["kind"]].format(error_map="", name=record["name"])
    height, width = found["shape"][1:]
    on_request = (
        f"- output `error_map`, on request: float32 [batch, {height}, {width}], where in the "
        "picture the error lies\n"
    )
    maps = ", `error_map` (image)"
    return on_request + _MORE[record["kind"]].format(error_map=maps, name=record["name"])


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
