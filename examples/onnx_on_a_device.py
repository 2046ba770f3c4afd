"""An exported model on a device that has ONNX Runtime, NumPy and Pillow.

    python examples/onnx_on_a_device.py model.onnx picture.png ...

Nothing of this package is needed.
"""

import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def main(model: str, *pictures: str) -> list[tuple[float, bool]]:
    """Prints and gives score and decision of each picture."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    _, height, width, channels = session.get_inputs()[0].shape
    found = []
    for name in pictures:
        with Image.open(name) as opened:
            picture = ImageOps.exif_transpose(opened).convert("L" if channels == 1 else "RGB")
        # The same size and filter as in training.
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        image = np.asarray(picture, np.uint8).reshape(1, height, width, channels)
        score, is_anomaly = session.run(["score", "is_anomaly"], {"image": image})
        found.append((float(score[0]), bool(is_anomaly[0])))
        print(f"{name}  {found[-1][0]:.5g}  {'anomaly' if found[-1][1] else 'normal'}")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
