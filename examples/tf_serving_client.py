"""A folder of pictures to TensorFlow Serving, or to `python cli.py serve`, over REST.

    python examples/tf_serving_client.py NAME new_pictures/ 127.0.0.1:8501

Needs the extra `client` (requests), and no TensorFlow.
"""

import sys
from pathlib import Path

from lisae_tf.data import picture_files
from lisae_tf.serving.rest_client import RestClient


def main(name: str, folder: str, address: str = "127.0.0.1:8501") -> list[float]:
    """Prints score and decision of each picture; gives the scores."""
    paths = picture_files.find(Path(folder))
    with RestClient(name, address) as client:
        # Sent as they are, in batches; the server decodes them. A busy server is asked again.
        found = client.score_encoded([path.read_bytes() for path in paths])
    for path, score, is_anomaly in zip(paths, found.score, found.is_anomaly, strict=True):
        print(f"{path}  {score:.5g}  {'anomaly' if is_anomaly else 'normal'}")
    return [float(score) for score in found.score]


if __name__ == "__main__":
    main(*sys.argv[1:])
