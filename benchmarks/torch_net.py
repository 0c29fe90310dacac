"""The same net in PyTorch, to compare with ours. torch is imported only when a net is made."""

import importlib
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from measuring import Contender

from alexnet_jax.config import model_schema, schema
from alexnet_jax.model.layer_table import layer_table, parameter_count

VARIANTS = ('eager', 'channels_last', 'compiled', 'compiled_channels_last')


class PyTorch:
    """The same net in PyTorch, on the GPU where PyTorch has one, else on all cores.

    Args:
      config: the settings; their dtype is used, by autocast for bfloat16.
      variant: one of VARIANTS.

    Raises:
      ValueError: PyTorch's net does not have as many parameters as ours.
    """

    def __init__(self, config: schema.Config, variant: str = 'eager') -> None:
        self._torch: Any = importlib.import_module('torch')
        self._torch.set_num_threads(os.cpu_count() or 1)
        self._device = 'cuda' if self._torch.cuda.is_available() else 'cpu'
        # As in JAX, float32 is computed in TensorFloat-32 where the GPU has it.
        self._torch.backends.cuda.matmul.allow_tf32 = True
        self._torch.backends.cudnn.allow_tf32 = True
        self._torch.backends.cudnn.benchmark = True
        self._torch.manual_seed(config.seed)
        self._config, self._parts = config, _torch_layers(self._torch, config)
        _initialize(self._torch, config.model, self._parts)
        parameters = sum(p.numel() for p in self._parts.parameters())
        if parameters != parameter_count(config):
            raise ValueError(f'PyTorch has a different net, with {parameters:,} parameters')
        count, crop = config.optimizer.batch_size, config.augmentation.crop
        images = self._torch.randint(256, (count, 3, crop, crop)).float() - 127.5
        images = self._torch.nn.functional.pad(images, (0, 3, 0, 3))
        kind = dict(device=self._device)
        if variant.endswith('channels_last'):
            kind['memory_format'] = self._torch.channels_last
        self._images = images.to(**kind)
        self._parts = self._parts.to(**kind)
        self._labels = self._torch.randint(config.dataset.classes, (count,)).to(self._device)
        compiled = variant.startswith('compiled')
        self._logits = self._torch.compile(self._layers) if compiled else self._layers

    def step(self) -> Contender:
        """Returns the training step: forward, cross entropy, backward and the update."""
        optimizer = self._torch.optim.SGD(
            self._parts.parameters(),
            lr=self._config.learning_rate.initial,
            momentum=self._config.optimizer.momentum,
            weight_decay=self._config.optimizer.weight_decay,
            fused=True,
        )

        def run() -> None:
            optimizer.zero_grad(set_to_none=True)
            loss = self._loss()
            loss.backward()
            optimizer.step()
            check_finite(loss.item())

        self._parts.train()
        return run

    def gradient(self) -> Contender:
        """Returns the gradient of the cross entropy, with dropout."""

        def run() -> None:
            self._parts.zero_grad(set_to_none=True)
            self._loss().backward()
            self._wait()

        self._parts.train()
        return run

    def forward(self) -> Contender:
        """Returns the forward pass, without dropout and without keeping values for backward."""

        def run() -> None:
            self._parts.eval()
            with self._torch.no_grad(), self._cast():
                self._logits()
            self._wait()

        return run

    def make_classifier(self, mean_HWC: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """Returns the softmax of the centre crop as a function of images.

        Args:
          mean_HWC: (size, size, 3) float32, subtracted from the images.

        Returns:
          A function of (B, size, size, 3) uint8 to (B, K) float32.
        """
        torch, crop = self._torch, self._config.augmentation.crop
        first = (len(mean_HWC) - crop) // 2
        centre = slice(first, first + crop)
        mean = torch.from_numpy(mean_HWC[centre, centre]).permute(2, 0, 1).to(self._device)

        def classify(images_BHWC: np.ndarray) -> np.ndarray:
            pixels = torch.from_numpy(images_BHWC[:, centre, centre]).to(self._device)
            with torch.no_grad():
                crops = pixels.permute(0, 3, 1, 2).float() - mean
                self._images = torch.nn.functional.pad(crops, (0, 3, 0, 3))
                return torch.softmax(self._logits(), dim=1).cpu().numpy()

        self._parts.eval()
        return classify

    def _wait(self) -> None:
        if self._device == 'cuda':
            self._torch.cuda.synchronize()

    def _cast(self) -> Any:
        half = self._config.model.dtype == 'bfloat16'
        return self._torch.autocast(self._device, dtype=self._torch.bfloat16, enabled=half)

    def _loss(self) -> Any:
        with self._cast():
            logits = self._logits()
        return self._torch.nn.functional.cross_entropy(logits.float(), self._labels)

    def _layers(self) -> Any:
        """Computes the logits; the towers meet where `cat` stands, and in `dense`."""
        cat, parts = self._torch.cat, self._parts
        maps = parts.conv3(cat([conv12(self._images) for conv12 in parts.conv12], dim=1))
        own = zip(parts.conv45, maps.chunk(2, dim=1), strict=True)
        return parts.dense(cat([conv45(maps) for conv45, maps in own], dim=1))


def _torch_layers(torch: Any, config: schema.Config) -> Any:
    """Makes the layers; those in which a tower reads its own maps only are lists, one per tower."""
    nn, row = torch.nn, {row.name: row for row in layer_table(config)}
    maps = {name: row[name].maps for name in row}

    def convolution(*shape: int, padding: int, then: Sequence[Any] = ()) -> list[Any]:
        return [nn.Conv2d(*shape, padding=padding), nn.ReLU(inplace=True), *then]

    def normalization() -> Any:
        return nn.LocalResponseNorm(size=5, alpha=5 * 1e-4, beta=0.75, k=2)  # divides alpha by size

    def pooling() -> Any:
        return nn.MaxPool2d(3, stride=2)

    def conv12() -> Any:
        return nn.Sequential(
            *convolution(3, maps['conv1'], 11, 4, padding=0, then=[normalization(), pooling()]),
            *convolution(
                *(maps['conv1'], maps['conv2'], 5), padding=2, then=[normalization(), pooling()]
            ),
        )

    def conv45() -> Any:
        return nn.Sequential(
            *convolution(maps['conv3'], maps['conv4'], 3, padding=1),
            *convolution(maps['conv4'], maps['conv5'], 3, padding=1, then=[pooling()]),
        )

    def hidden(name: str) -> list[Any]:
        linear = nn.Linear(row[name].reads, 2 * maps[name])
        return [linear, nn.ReLU(inplace=True), nn.Dropout(0.5)]

    parts = nn.Module()
    parts.conv12 = nn.ModuleList([conv12(), conv12()])
    parts.conv3 = nn.Sequential(*convolution(2 * maps['conv2'], 2 * maps['conv3'], 3, padding=1))
    parts.conv45 = nn.ModuleList([conv45(), conv45()])
    parts.dense = nn.Sequential(
        *(nn.Flatten(), *hidden('fc6'), *hidden('fc7')),
        nn.Linear(2 * maps['fc7'], config.dataset.classes),
    )
    return parts


def _initialize(torch: Any, net: model_schema.Model, parts: Any) -> None:
    """Draws initial values as ours, so that the numbers in both have like magnitudes."""
    first, second = ([conv12[i] for conv12 in parts.conv12] for i in (0, 4))
    fourth, fifth = ([conv45[i] for conv45 in parts.conv45] for i in (0, 2))
    layers = [first, second, [parts.conv3[0]], fourth, fifth]
    layers += [[layer] for layer in parts.dense if isinstance(layer, torch.nn.Linear)]
    names = [*net.convolutions().values(), net.fc6, net.fc7, net.fc8]
    for layer, modules in zip(names, layers, strict=True):
        for module in modules:
            torch.nn.init.normal_(module.weight, std=net.initial_std(layer))
            torch.nn.init.constant_(module.bias, layer.bias)


def check_finite(loss: float) -> None:
    """Checks that the loss is finite; a diverged net may be faster or slower than training.

    Raises:
      ValueError: the loss is infinite or NaN.
    """
    if not math.isfinite(loss):
        raise ValueError(f'the loss is {loss}: the net has diverged, so its times mean nothing')
