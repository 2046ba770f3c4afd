"""The other side: the same network in PyTorch (channels-last), and its training.

Written as their users write it. Weights are taken over from ours, so that a test can compare.
"""

import keras
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lisae_tf.model.networks import LEAK


class TorchAutoencoder(nn.Module):
    """Encoder, latent and decoder of `lisae_tf.model.networks`, pictures as (N, C, H, W)."""

    def __init__(self, encoder: keras.Model, latent: keras.Model, decoder: keras.Model):
        super().__init__()
        weights = {
            layer.name: [w.numpy() for w in layer.weights]
            for network in (encoder, latent, decoder)
            for layer in network.layers
            if layer.weights
        }
        first, second = weights["convolution_1"], weights["convolution_2"]
        self.convolution_1, self.convolution_2 = _convolution(first), _convolution(second)
        self.preactivation = _dense(weights["preactivation"])
        self.expansion = _dense(weights["expansion"])
        self.deconvolution_1 = _deconvolution(weights["deconvolution_1"])
        self.deconvolution_2 = _deconvolution(weights["deconvolution_2"])
        self.picture = _convolution(weights["picture"], stride=1, padding=1)
        self.small = encoder.input_shape[1] // 4
        self.to(memory_format=torch.channels_last)

    def encode(self, x):
        """The encoder's output s = ℰ(x), (N, S)."""
        for convolution in (self.convolution_1, self.convolution_2):
            x = F.leaky_relu(convolution(F.pad(x, (0, 1, 0, 1))), LEAK)
        return x.permute(0, 2, 3, 1).flatten(1)

    def decode(self, s):
        """x̂ = 𝒟(𝒵(s)), (N, C, H, W)."""
        y = F.leaky_relu(self.expansion(torch.tanh(self.preactivation(s))), LEAK)
        y = y.view(len(y), self.small, self.small, -1).permute(0, 3, 1, 2)
        for deconvolution in (self.deconvolution_1, self.deconvolution_2):
            y = F.leaky_relu(deconvolution(y)[..., :-1, :-1], LEAK)
        return torch.sigmoid(self.picture(y))

    def forward(self, x):
        """The error of each picture, (N,)."""
        return (self.decode(self.encode(x)) - x).square().mean(dim=(1, 2, 3))


def _filled(layer: nn.Module, kernel: np.ndarray, bias: np.ndarray) -> nn.Module:
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(kernel)))
        layer.bias.copy_(torch.from_numpy(bias))
    return layer


def _convolution(weights: list[np.ndarray], stride: int = 2, padding: int = 0) -> nn.Module:
    kernel, bias = weights
    height, _, inputs, outputs = kernel.shape
    layer = nn.Conv2d(inputs, outputs, height, stride, padding)
    return _filled(layer, kernel.transpose(3, 2, 0, 1), bias)


def _deconvolution(weights: list[np.ndarray]) -> nn.Module:
    kernel, bias = weights
    height, _, outputs, inputs = kernel.shape
    return _filled(
        nn.ConvTranspose2d(inputs, outputs, height, 2), kernel.transpose(3, 2, 0, 1), bias
    )


def _dense(weights: list[np.ndarray]) -> nn.Module:
    kernel, bias = weights
    return _filled(nn.Linear(*kernel.shape), kernel.T, bias)


def to_torch(images: np.ndarray) -> torch.Tensor:
    """uint8 (N, H, W, C) -> float32 (N, C, H, W) in 0-1, channels-last in memory."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def torch_scores(model: TorchAutoencoder, images: np.ndarray, batch_size: int) -> np.ndarray:
    """Scores of uint8 pictures, (N,)."""
    with torch.inference_mode():
        starts = range(0, len(images), batch_size)
        parts = [model(to_torch(images[k : k + batch_size])) for k in starts]
        return torch.cat(parts).numpy()


def torch_phase_1(model: TorchAutoencoder, images: np.ndarray, batch_size: int, rate: float):
    """A function that trains one epoch."""
    optimizer = torch.optim.Adam(model.parameters(), rate)

    def epoch() -> None:
        order = np.random.permutation(len(images))
        for start in range(0, len(images) - batch_size + 1, batch_size):
            loss = model(to_torch(images[order[start : start + batch_size]])).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def torch_phase_2(
    model: TorchAutoencoder, normal: np.ndarray, negative: np.ndarray, settings, epochs: int
):
    """A function that trains the latent layer for some epochs of equation 4 with the hinge."""
    model.requires_grad_(False)
    model.preactivation.requires_grad_(True)
    optimizer = torch.optim.Adam(model.preactivation.parameters(), settings.learning_rate)
    size = settings.batch_size

    def train() -> None:
        for _ in range(epochs):
            orders = np.random.permutation(len(normal)), np.random.permutation(len(negative))
            for k in range(0, len(normal) - size + 1, size):
                kept = model(to_torch(normal[orders[0][k : k + size]]))
                pushed = model(to_torch(negative[orders[1][k : k + size]]))
                loss = kept.mean() + settings.beta * F.relu(settings.gamma - pushed).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    return train
