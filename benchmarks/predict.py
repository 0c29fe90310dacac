"""Times the classification of pictures by the full net, beside ONNX Runtime and PyTorch.

    python benchmarks/predict.py [--batch=32] [--devices=1,2] [--repeats=15] [--files=0]
        [--width=1] [--out=FILE]

Ours is the net of configs/ilsvrc2012.py with its initial parameters, and the program that
`evaluate` and `alexnet_jax.load` run: it takes uint8 images of 256x256 from the host, and returns
the logarithm of the softmax for the centre crop, with both towers on one device or with one on each
of two. ONNX Runtime and PyTorch take the same images, crop them, subtract the same mean and compute
the softmax, in float32 on all cores. Before the clock starts, ONNX Runtime's probabilities are
compared with ours.

ONNX Runtime runs the graph that our exporter writes, in which response normalization has its
fastest form (interchange/exports/onnx_graph.py). PyTorch is eager, in the form of step.py. --noonnx
and --notorch leave them out.

--files=64 also times the path from JPEG files to probabilities: so many photographs of 500x375 are
decoded and scaled by `alexnet_jax.data.images` in one pool of threads, the same for all, and
classified batch by batch while the pool decodes the next.

In each round every contender classifies one batch, or all files, in turn. 'speed' is the median of
the time of ONNX Runtime over the contender's, round by round.

--width=0.0625 times a net with a sixteenth of the maps and units, to try the program in seconds.
"""

import importlib.util
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from absl import app, flags, logging

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from classifiers import Classifier, classify_files, make_ours
from full_net import make_config
from measuring import (
    NO_TORCH,
    Others,
    circumstances,
    heading,
    measure,
    write,
)
from onnx_net import OnnxRuntime
from photographs import photograph
from torch_net import PyTorch

from alexnet_jax.model import alexnet
from alexnet_jax.runtime import cpu_devices
from alexnet_jax.runtime.text_table import align_columns
from alexnet_jax.runtime.user_errors import UserError, parse_flags

NO_ONNX = 'ONNX Runtime is not installed, so its row is left out: pip install onnx onnxruntime'
ONNX_RUNTIME = 'ONNX Runtime'  # the name of its row
TOLERANCE = 1e-4  # of a logarithm of a probability
TITLES = {'images': 'from images in memory', 'files': 'from JPEG files'}

_BATCH = flags.DEFINE_integer('batch', 32, 'Images in a batch.', lower_bound=1)
_DEVICES = flags.DEFINE_list('devices', ['1', '2'], 'Numbers of devices to spread the towers over.')
_ONNX = flags.DEFINE_boolean('onnx', True, 'Whether to time ONNX Runtime where it is installed.')
_TORCH = flags.DEFINE_boolean('torch', True, 'Whether to time PyTorch where it is installed.')
_FILES = flags.DEFINE_integer('files', 0, 'JPEG files; 0: only images in memory.', lower_bound=0)
_REPEATS = flags.DEFINE_integer('repeats', 15, 'Rounds.', lower_bound=1)
_WIDTH = flags.DEFINE_float('width', 1.0, 'Multiplies the maps and units of the net.', 1e-3)
_OUT = flags.DEFINE_string('out', None, 'A JSON file for the result, with the time of each round.')

flags.register_validator(
    'devices', lambda names: names and all(n in ('1', '2') for n in names), '1, 2 or 1,2'
)


def make_contenders(
    batch: int, width: float, mean_HWC: np.ndarray, images_BHWC: np.ndarray
) -> dict[str, Classifier]:
    """Makes the nets that the flags ask for, and compares ONNX Runtime's answers with ours.

    Raises:
      ValueError: the answers differ.
    """
    config = make_config(1, batch, width=width)
    params = alexnet.initialize(config)
    nets: dict[str, Classifier] = {}
    for n in map(int, _DEVICES.value):
        of_devices = make_config(n, batch, width=width)
        nets[f'alexnet_jax {n} device{"s" * (n > 1)}'] = make_ours(of_devices, params, mean_HWC)
    expected = np.log(next(iter(nets.values()))(images_BHWC))
    if _TORCH.value and importlib.util.find_spec('torch'):
        nets['PyTorch eager'] = PyTorch(config).make_classifier(mean_HWC)
    if _ONNX.value and all(importlib.util.find_spec(name) for name in ('onnxruntime', 'onnx')):
        net = OnnxRuntime(config, params, mean_HWC, cpu_devices.processor_count())
        difference = np.abs(np.log(net.probabilities(images_BHWC)) - expected).max()
        if not difference < TOLERANCE:
            raise ValueError(f'ONNX Runtime differs by {difference} from ours')
        nets[ONNX_RUNTIME] = net.probabilities
    return nets


def table(what: str, seconds: Mapping[str, list[float]], number: int) -> str:
    """Formats the times of so many images for the terminal."""
    rows: list[tuple[str, ...]] = [(TITLES[what], 'ms', 'fastest', 'slowest', 'images/s', 'speed')]
    for name, own in seconds.items():
        median = statistics.median(own)
        milliseconds = (f'{1000 * s:.4g}' for s in (median, min(own), max(own)))
        ratio = speed(seconds, name)
        rows.append(
            (name, *milliseconds, f'{number / median:.1f}', '-' if not ratio else f'{ratio:.2f}')
        )
    return align_columns(rows)


def speed(seconds: Mapping[str, list[float]], name: str) -> float | None:
    """Returns the median of the time of ONNX Runtime over that of a contender."""
    if ONNX_RUNTIME not in seconds:
        return None
    rounds = zip(seconds[ONNX_RUNTIME], seconds[name], strict=True)
    return statistics.median(reference / own for reference, own in rounds)


def benchmark(batch: int, repeats: int, width: float) -> None:
    """Times, prints and writes what the flags ask for."""
    cpu_devices.prepare_cpu_devices(max(map(int, _DEVICES.value)), 1)
    optional = [name for name in ('torch', 'onnxruntime') if importlib.util.find_spec(name)]
    about = circumstances(['jax', 'jaxlib', 'flax', *optional])
    print(heading(about))
    narrowed = '' if width == 1 else f', width {width:g}'
    print(f'batch {batch}, {repeats} rounds{narrowed}', flush=True)
    about |= {'batch': batch, 'repeats': repeats, 'width': width, 'others': {}, 'results': []}
    config = make_config(1, batch, width=width)
    size = config.dataset.image_size
    rng = np.random.default_rng(0)
    images_BHWC = rng.integers(256, size=(batch, size, size, 3), dtype=np.uint8)
    mean_HWC = np.full((size, size, 3), 127.5, np.float32)
    nets = make_contenders(batch, width, mean_HWC, images_BHWC)
    with ThreadPoolExecutor(cpu_devices.processor_count()) as pool:
        files = [photograph(rng) for _ in range(_FILES.value)]
        work: dict[str, tuple[int, Callable[[Classifier], object]]] = {
            'images': (batch, lambda classify: classify(images_BHWC)),
            'files': (
                len(files),
                lambda classify: classify_files(classify, files, config, pool),
            ),
        }
        for what, (number, run) in work.items():
            if number:
                others = Others()
                runs = {name: lambda net=net, run=run: run(net) for name, net in nets.items()}
                seconds = measure(runs, repeats)
                about['others'][what] = fraction = others.fraction()
                print(f'\n{table(what, seconds, number)}')
                if fraction is not None:
                    print(f'other processes took {fraction:.0%} of the cores meanwhile', flush=True)
                about['results'] += [
                    dict(what=what, contender=name, seconds=own, speed=speed(seconds, name))
                    | {'images_per_second': number / statistics.median(own)}
                    for name, own in seconds.items()
                ]
    if 'torch' not in optional:
        print(f'\n{NO_TORCH}')
    if 'onnxruntime' not in optional:
        print(f'\n{NO_ONNX}')
    if _OUT.value:
        write(_OUT.value, about)


def main(_: Sequence[str]) -> None:
    """Runs the benchmark that the flags describe."""
    logging.set_verbosity(logging.ERROR)
    try:
        benchmark(_BATCH.value, _REPEATS.value, _WIDTH.value)
    except UserError as error:
        sys.exit(f'predict.py: {error}')


if __name__ == '__main__':
    app.run(main, flags_parser=parse_flags)
