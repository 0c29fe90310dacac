"""AlexNet in PyTorch, with the weights of the folder that this file lies in.

    import alexnet_torch
    net = alexnet_torch.load('.')
    image = net.read_picture('dog.jpg')
    net.classify(image[None])       # [[('Siberian husky', 0.84), ...]]
    logits = net(image[None])       # (1, classes)

or, from the shell: python alexnet_torch.py dog.jpg

It needs PyTorch, safetensors and, for `read_picture`, Pillow and NumPy, but not alexnet_jax. The
towers of the net are groups of its convolutions. `net.train()` makes a net that can be trained on.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional


class AlexNet(nn.Sequential):
    """The net as a sequence of named modules, from pixels to logits.

    Args:
      config: the contents of `config.json`.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        for name, module in modules(config['layers']):
            self.add_module(name, module)
        descriptions = config['label_descriptions']  # in English, where the names are numbers
        self.names = [descriptions.get(name, name) for name in config['label_names']]
        preprocessing = config['preprocessing']
        self.size = preprocessing['image_size']  # pixels across an image
        self.crop = preprocessing['crop']  # pixels across what the net is applied to
        self.resize = preprocessing['resize']  # the filter that scales pictures
        self.background = preprocessing['background']  # behind transparent pixels
        self.register_buffer('mean', torch.zeros(3, self.size, self.size))
        self.register_buffer('deviations', torch.ones(3, 1, 1))

    def forward(self, images: Tensor, preprocess: bool = True) -> Tensor:
        """Returns the logits, (B, classes).

        Args:
          images: (B, 3, size, size), red, green and blue on the scale of 0 to 255, of any dtype;
            without `preprocess`, what the method of that name returns.
          preprocess: whether to crop the centre and to subtract the mean.
        """
        return super().forward(self.preprocess(images) if preprocess else images)

    def preprocess(self, images: Tensor) -> Tensor:
        """Returns the centre of images, with the mean subtracted: (B, 3, crop, crop) float32."""
        x = centre(images, self.crop).to(self.mean.dtype) - centre(self.mean, self.crop)
        return x / self.deviations

    @torch.no_grad()
    def classify(self, images: Tensor, top: int = 5) -> list[list[tuple[str, float]]]:
        """Returns the most probable classes of each image, with their probabilities."""
        probabilities, classes = self.forward(images).softmax(1).topk(min(top, len(self.names)))
        rows = zip(classes.tolist(), probabilities.tolist(), strict=True)
        return [[(self.names[c], p) for c, p in zip(*row, strict=True)] for row in rows]

    def read_picture(self, file: str | Path) -> Tensor:
        """Reads the central square of a picture, scaled to (3, size, size) uint8."""
        import numpy as np
        from PIL import Image, ImageOps

        picture = ImageOps.exif_transpose(Image.open(file))
        if picture.has_transparency_data:
            picture = picture.convert('RGBA')
            behind = Image.new('RGBA', picture.size, self.background)
            picture = Image.alpha_composite(behind, picture)
        short = min(picture.size)
        left, top = ((n - short) // 2 for n in picture.size)
        square = picture.convert('RGB').crop((left, top, left + short, top + short))
        is_enlarged = short < self.size and self.resize != 'nearest'
        name = 'bicubic' if is_enlarged else {'area': 'box'}.get(self.resize, self.resize)
        scaled = square.resize((self.size, self.size), Image.Resampling[name.upper()])
        return torch.from_numpy(np.array(scaled)).permute(2, 0, 1)


def modules(layers: list[dict[str, Any]]) -> Iterator[tuple[str, nn.Module]]:
    """Yields the names and the modules of the net, from the 'layers' of `config.json`."""
    is_flat = False
    for layer in layers:
        name, inputs, outputs = layer['name'], layer['inputs'], layer['outputs']
        if layer['kind'] == 'convolution':
            before, after = layer['padding']
            if after > before:
                yield f'{name}_padding', nn.ZeroPad2d((0, after - before, 0, after - before))
            norm, size = layer['batch_normalization'], (layer['kernel'], layer['stride'])
            options = dict(padding=before, groups=layer['groups'], bias=norm is None)
            yield name, nn.Conv2d(inputs, outputs, *size, **options)
            if norm is not None:
                norm_name = name.replace('conv', 'bn')
                yield norm_name, nn.BatchNorm2d(outputs, norm['epsilon'], 1 - norm['memory'])
        else:
            if not is_flat:
                yield f'{name}_flatten', nn.Flatten()
            is_flat = True
            if layer['input_dropout'] > 0:
                yield f'{name}_input_dropout', Dropout(layer['input_dropout'])
            yield name, nn.Linear(inputs, outputs)
        for number, operation in enumerate(layer['then'], start=1):
            kind, constants = operation['kind'], {k: x for k, x in operation.items() if k != 'kind'}
            yield f'{name}_{number}_{kind}', OPERATIONS[kind](**constants)


class Dropout(nn.Module):
    """Sets a fraction of its inputs to zero in training; scales all by the rest at test time.

    This is the form of 2012. PyTorch's scales in training instead.
    """

    def __init__(self, fraction: float) -> None:
        super().__init__()
        self.fraction = fraction

    def forward(self, x: Tensor) -> Tensor:
        """Returns an array like `x`."""
        if self.training:
            return x * (torch.rand_like(x) >= self.fraction)
        return x * (1 - self.fraction)


class ResponseNormalization(nn.Module):
    """Divides each value by (k + alpha * sum of squares over `size` adjacent maps) ** beta.

    Each of `groups` towers is normalized over its own maps.
    """

    def __init__(self, size: int, k: float, alpha: float, beta: float, groups: int) -> None:
        super().__init__()
        self.groups = groups
        # PyTorch divides alpha by the size.
        self.normalize = nn.LocalResponseNorm(size, alpha * size, beta, k)

    def forward(self, x: Tensor) -> Tensor:
        """Returns an array like `x`, (B, maps, rows, columns)."""
        return torch.cat([self.normalize(tower) for tower in x.chunk(self.groups, dim=1)], dim=1)


class SpatialNormalization(nn.Module):
    """Divides each value by (k + alpha * sum of squares over size x size pixels) ** beta."""

    def __init__(self, size: int, k: float, alpha: float, beta: float) -> None:
        super().__init__()
        self.size, self.k, self.alpha, self.beta = size, k, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        """Returns an array like `x`, (B, maps, rows, columns)."""
        before, after = self.size // 2, self.size - 1 - self.size // 2
        squares = functional.pad(x * x, (before, after, before, after))
        total = functional.avg_pool2d(squares, self.size, stride=1, divisor_override=1)
        return x * (self.k + self.alpha * total) ** -self.beta


class MaxPooling(nn.Module):
    """Max-pooling in which the last pool may extend beyond the right or bottom edge."""

    def __init__(self, window: int, stride: int) -> None:
        super().__init__()
        self.window, self.stride = window, stride

    def forward(self, x: Tensor) -> Tensor:
        """Returns the largest value of each pool."""
        beyond = [max(0, self.window - n) for n in x.shape[:1:-1]]  # of columns, of rows
        x = functional.pad(x, (0, beyond[0], 0, beyond[1]), value=-torch.inf)
        return functional.max_pool2d(x, self.window, self.stride, ceil_mode=True)


OPERATIONS = {
    'relu': nn.ReLU,
    'tanh': nn.Tanh,
    'dropout': Dropout,
    'response_normalization': ResponseNormalization,
    'spatial_normalization': SpatialNormalization,
    'max_pooling': MaxPooling,
    'global_average_pooling': lambda: nn.AdaptiveAvgPool2d(1),
}


def centre(x: Tensor, size: int) -> Tensor:
    """Returns the central size x size pixels of (..., rows, columns)."""
    top, left = ((n - size) // 2 for n in x.shape[-2:])
    return x[..., top : top + size, left : left + size]


def load(folder: str | Path = '.') -> AlexNet:
    """Returns the net of a folder with `config.json` and `model.safetensors`, for test time."""
    net = AlexNet(json.loads(Path(folder, 'config.json').read_text('utf-8')))
    net.load_state_dict(load_file(Path(folder, 'model.safetensors')))
    return net.eval()


def main(files: Sequence[str]) -> int:
    """Prints the most probable classes of each picture; returns the exit code."""
    if not files or files[0] in ('-h', '--help'):
        print(
            'usage: python alexnet_torch.py PICTURE ...', file=sys.stdout if files else sys.stderr
        )
        return 0 if files else 2
    net, unread = load(Path(__file__).parent), 0
    for file in files:
        try:
            picture = net.read_picture(file)
        except OSError as error:
            print(f'{file} cannot be read: {error.strerror or "not an image"}', file=sys.stderr)
            unread += 1
            continue
        (best,) = net.classify(picture[None])
        print(f'{file}: ' + ', '.join(f'{name} {100 * p:.1f}%' for name, p in best))
    return 1 if unread else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
