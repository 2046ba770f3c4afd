"""Replays the warm-up requests of a version before anybody asks it."""

from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from lisae_tf.core.errors import LisaeError
from lisae_tf.exported.codes import RequestError
from lisae_tf.exported.saved_model import ServedModel
from lisae_tf.serving import inference
from lisae_tf.serving.limits import Limits
from lisae_tf.serving.messages import examples_of, to_array

FILE = Path("assets.extra", "tf_serving_warmup_requests")
MAX_RECORDS = 1000


def warm_up(model: ServedModel, folder: Path, limits: Limits) -> int:
    """Runs the records in `assets.extra`, or one black picture where there are none.

    Returns:
        How many requests were run.

    Raises:
        LisaeError: the file is damaged, has too many records, or one of them fails.
    """
    path = folder / FILE
    try:
        if not path.is_file():
            image = np.zeros((1, *model.shape), model.signature("").inputs["image"].dtype)
            inference.predict(model, limits, "", {"image": image})
            return 1
        count = 0
        for count, record in enumerate(tf.data.TFRecordDataset(str(path)), start=1):
            if count > MAX_RECORDS:
                raise LisaeError(f"{path} has more than {MAX_RECORDS} records; export it again")
            _replay(model, prediction_log_pb2.PredictionLog.FromString(record.numpy()), limits)
        return count
    except (DecodeError, tf.errors.OpError, RequestError) as error:
        raise LisaeError(f"warm-up of {folder} failed ({error}); export the model again") from error


def _replay(model: ServedModel, log: prediction_log_pb2.PredictionLog, limits: Limits) -> None:
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        request = log.predict_log.request
        inputs = {name: to_array(name, each, limits) for name, each in request.inputs.items()}
        inference.predict(
            model, limits, request.model_spec.signature_name, inputs, request.output_filter
        )
    elif kind == "classify_log":
        request = log.classify_log.request
        name = request.model_spec.signature_name
        inference.classify(model, limits, name, examples_of(request.input))
    elif kind == "regress_log":
        request = log.regress_log.request
        name = request.model_spec.signature_name
        inference.regress(model, limits, name, examples_of(request.input))
