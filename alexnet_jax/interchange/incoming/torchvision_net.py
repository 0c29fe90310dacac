"""The AlexNet of torchvision: names of its arrays.

Source: pytorch/vision, torchvision/models/alexnet.py. It is the net of Krizhevsky, 2014 ("One weird
trick"): one tower, 64-192-384-256-256 maps, no response normalization, dropout before the layers
fc6 and fc7. Its layout is the grouped one.
"""

from pathlib import Path

from alexnet_jax.interchange.incoming import tensor_files
from alexnet_jax.interchange.incoming.weights import Weights
from alexnet_jax.runtime.printing import list_names, printable
from alexnet_jax.runtime.user_errors import UserError

_LAYERS = {
    'features.0': 'conv1',
    'features.3': 'conv2',
    'features.6': 'conv3',
    'features.8': 'conv4',
    'features.10': 'conv5',
    'classifier.1': 'fc6',
    'classifier.4': 'fc7',
    'classifier.6': 'fc8',
}


def read_weights(path: Path) -> Weights:
    """Reads a state dict of torchvision's AlexNet from a .safetensors or .pth file.

    Raises:
      UserError: the file cannot be read, is damaged, or belongs to another net.
    """
    if path.suffix == '.safetensors':
        tensors, _ = tensor_files.read_safetensors(path)
    else:
        tensors = tensor_files.read_pth(path)
    # DataParallel and DistributedDataParallel add this name.
    tensors = {name.replace('module.', ''): tensor for name, tensor in tensors.items()}
    arrays, names, unknown = {}, {}, []
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition('.')
        if layer not in _LAYERS or kind not in ('weight', 'bias'):
            unknown.append(name)
            continue
        ours = f'{_LAYERS[layer]}.{kind}'
        arrays[ours], names[ours] = tensor, f'{name} ({_LAYERS[layer]})'
    if unknown or not arrays:
        raise UserError(
            f"{printable(str(path))} is not a state dict of torchvision's alexnet: it has "
            f'{list_names(unknown, 4) or "no arrays"}; give one whose arrays are '
            'features.0.weight to classifier.6.bias'
        )
    for layer, ours in _LAYERS.items():
        for kind in ('weight', 'bias'):
            names.setdefault(f'{ours}.{kind}', f'{layer}.{kind} ({ours})')
    return Weights(path, arrays, names, 'torchvision')
