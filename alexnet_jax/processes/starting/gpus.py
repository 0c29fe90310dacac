"""The NVIDIA GPUs of this host, counted without the driver and without JAX."""

import itertools
from pathlib import Path

_NO_GPU = ('', '-1', 'NoDevFiles')  # in CUDA_VISIBLE_DEVICES; CUDA ignores what follows them


def count_gpus(folder: Path = Path('/dev')) -> int:
    """Counts the NVIDIA GPUs of this host or container by their device files."""
    return sum(1 for path in folder.glob('nvidia*') if path.name[len('nvidia') :].isdigit())


def parse_visible_devices(text: str) -> list[str]:
    """Returns the GPUs that a value of CUDA_VISIBLE_DEVICES names, as far as CUDA uses them."""
    items = (item.strip() for item in text.split(','))
    return list(itertools.takewhile(lambda item: item not in _NO_GPU, items))
