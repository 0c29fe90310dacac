"""The README.md of an export: what the files are, and how to load them."""

from collections.abc import Iterable

import jax

from alexnet_jax.interchange.portable_net import PortableNet
from alexnet_jax.model.layer_table import parameter_count
from alexnet_jax.runtime.printing import count

_PICTURES = 'pictures'  # a section for the formats that take pixels
_PRECISION = {
    'default': 'Its matrix products have the default precision of the device: TF32 on NVIDIA\n'
    'GPUs since Ampere, bfloat16 on TPUs, float32 on CPUs.',
    'highest': 'Its matrix products have the precision of float32 on every device.',
}
_FILTERS = {'area': 'BOX'}  # of Pillow, where its name is another

_SECTIONS = {
    'safetensors': """\
## alexnet_jax.safetensors

All arrays of the run in the layout of alexnet_jax: the parameters, a leading axis of
{towers}, the mean image and the principal colours. The metadata of the file hold the settings and
the class names.

```python
from pathlib import Path
from alexnet_jax.interchange import safetensors_files

net = safetensors_files.read(Path('alexnet_jax.safetensors'))
net.config, net.params, net.inputs.mean_HWC, net.inputs.classes
```

`python -m alexnet_jax.import_weights --from_export=alexnet_jax.safetensors --workdir=DIR` makes a
run of it, which can be evaluated, trained further or fine-tuned.
""",
    'torch': """\
## model.safetensors, alexnet_torch.py: PyTorch

A state dict and the module that loads it. The towers are groups of its convolutions. It needs torch
and safetensors.

```python
import alexnet_torch

net = alexnet_torch.load('.')
image = net.read_picture('picture.jpg')
net.classify(image[None])   # names and probabilities
logits = net(image[None])   # pixels of 0 to 255 in, logits out
```

On a GPU, PyTorch computes convolutions with fewer bits by default (TF32); for the same logits as
here, set `torch.backends.cudnn.allow_tf32 = False`.
""",
    _PICTURES: """\
## A picture for ONNX and StableHLO

This needs Pillow and NumPy. The pixels of a picture that is larger than {size} x {size} differ from
those of alexnet_jax by rounding errors, and a little more at the edges; `config.json` describes all
steps.

```python
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

picture = ImageOps.exif_transpose(Image.open('picture.jpg')).convert('RGB')
square = ImageOps.fit(picture, ({size}, {size}), Image.Resampling.{filter})
images = np.array(square)[None]   # (1, {size}, {size}, 3) uint8
names = json.loads(Path('config.json').read_text('utf-8'))['label_names']
```
""",
    'onnx': """\
## model.onnx: ONNX

The net for one view of an image, in float32, for any number of images. Its input is `images`,
(batch, {size}, {size}, 3) uint8, RGB, with the preprocessing inside; or, if it was exported with
`--nopreprocessing`, `crops`, (batch, 3, {crop}, {crop}) float32, the result of the preprocessing.
Its outputs are `logits` and `probabilities`, (batch, {classes}) float32. It needs onnxruntime or
another runtime for ONNX.

```python
import base64

import onnxruntime

session = onnxruntime.InferenceSession('model.onnx')
name, pixels = session.get_inputs()[0].name, images
if name == 'crops':   # exported with --nopreprocessing
    properties = session.get_modelmeta().custom_metadata_map
    mean = np.frombuffer(base64.b64decode(properties['mean_image']), '<f4')
    pixels = images[:, {top}:{bottom}, {top}:{bottom}].transpose(0, 3, 1, 2)
    pixels = pixels - mean.reshape(3, {crop}, {crop}){divided}
logits, probabilities = session.run(['logits', 'probabilities'], {{name: pixels}})
names[probabilities[0].argmax()]   # the most probable class
```
""",
    'stablehlo': """\
## model.stablehlo: JAX

The net as a function from (B, {size}, {size}, 3) uint8 images to (B, {classes}) log probabilities,
in float32, with the preprocessing and the weights inside; for CPU, CUDA, ROCm and TPU. It needs jax
and flatbuffers. {precision}

```python
from pathlib import Path

import jax.export

exported = jax.export.deserialize(bytearray(Path('model.stablehlo').read_bytes()))
log_probabilities = jax.jit(exported.call)(images)   # compiles it for this batch size
names[log_probabilities[0].argmax()]   # the most probable class
```

JAX {jax} wrote it. JAX versions of the six months after that one can load it, and those of up to
three weeks before; later ones may refuse it. To keep the weights for longer, export them as
safetensors too.
""",
}


def text(net: PortableNet, formats: Iterable[str]) -> str:
    """Returns the text of README.md.

    Args:
      net: the net.
      formats: the formats whose files are in the folder.
    """
    config, size, crop = net.config, net.config.dataset.image_size, net.config.augmentation.crop
    deviations = config.augmentation.deviations
    divided = f'\n    pixels /= np.float32({[[[[x]] for x in deviations]]})'
    top = (size - crop) // 2
    values = dict(
        towers=count(config.model.towers, 'tower'),
        size=size,
        crop=crop,
        top=top,
        bottom=top + crop,
        divided=divided if any(x != 1 for x in deviations) else '',
        classes=config.dataset.classes,
        filter=_FILTERS.get(config.dataset.resize, config.dataset.resize.upper()),
        jax=jax.__version__,
        precision=_PRECISION[config.model.precision],
    )
    after = f' after {count(net.step, "training step")}' if net.step else ''  # 0: not known
    head = (
        '# An AlexNet\n\n'
        f'Exported by alexnet_jax{after}: {config.dataset.classes:,} classes, '
        f'{parameter_count(config):,}\nparameters, {values["towers"]}.\n\n'
        '`config.json` has the layers, the class names, the settings of the run, and, in words, '
        'what is\ndone to a picture before the net gets it.\n'
    )
    chosen = set(formats)
    if chosen & {'onnx', 'stablehlo'}:
        chosen.add(_PICTURES)
    sections = [text.format(**values) for name, text in _SECTIONS.items() if name in chosen]
    return '\n'.join([head, *sections])
