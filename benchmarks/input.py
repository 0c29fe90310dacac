"""Times the path from tars to batches beside Pillow and PyTorch, on synthetic photographs.

    python benchmarks/input.py [--images=512] [--rounds=5] [--step] [--output=FILE]
    python benchmarks/input.py --images=32 --rounds=1 --loader_batch=8  # to try it, in seconds

A tar of JPEGs of 500x375 pixels is prepared in three forms: the originals, 256x256 as JPEGs, and
256x256 as raw pixels. All of it stays in the system's memory, so disks are not measured. In each
round every contender does its part, in turn, after a round that is not counted. Tables have the
medians of the rounds; a ratio is the median of the ratios in the rounds.

- One core: the process is pinned to one core (Linux), its libraries to one thread. Pillow decodes
  at full resolution: at this size neither it nor ours would use reduced decoding.
- All cores: our loader's threads beside as many processes of torch.utils.data.DataLoader, one per
  core, which reads the same images as files with Pillow. The clock starts when as many batches have
  arrived as are made at once, so that none of those that it counts was ready before.
- Training (--step, minutes): blocks of steps of the full net on CPU devices, one tower on each of
  two, while the next batch is fetched as alexnet_jax/training/loop.py does it.
"""

import os

os.environ |= {
    'OMP_NUM_THREADS': '1',
    'JAX_PLATFORMS': 'cpu',
}  # read at import

import concurrent.futures
import dataclasses
import importlib.metadata
import importlib.util
import io
import multiprocessing
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any
from unittest import mock

import jax
import numpy as np
import tensorflow_datasets as tfds
from absl import app, flags, logging
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import photographs
from full_net import make_config
from input_tables import (
    ALL_CORES,
    CORES,
    CROP,
    HOST,
    HOST_CORES,
    ONE_CORE,
    OURS,
    PREPARING,
    SCALING,
    SIZE,
    SQUARES,
    STEPS,
    TRAINING,
    Rates,
    host,
    table,
)
from measuring import NO_TORCH, Others, circumstances, heading
from torch_net import check_finite

from alexnet_jax.data import images
from alexnet_jax.data import sources as datasets
from alexnet_jax.data.loading import loader
from alexnet_jax.data.preparation import writing
from alexnet_jax.data.preparation.layouts import imagenet_tars
from alexnet_jax.data.preparation.storage import VERSION, Storage
from alexnet_jax.model import towers
from alexnet_jax.runtime import cpu_devices
from alexnet_jax.runtime.user_errors import UserError, parse_flags
from alexnet_jax.training.optimizer import Progress
from alexnet_jax.training.state import compute_inputs, place_constants, place_initial_state
from alexnet_jax.training.step import Hyperparameters, make_train_step

TORCH = importlib.util.find_spec('torch') is not None
PACKAGES = ('numpy', 'pillow', 'simplejpeg', 'kornia_rs', 'grain', 'array-record')
FORMS = {
    'original': Storage(size=0),
    '256 JPEG': Storage(SIZE),
    '256 raw': Storage(SIZE, raw=True),
}
PASSES = {'original': 3, '256 JPEG': 8, '256 raw': 24}  # over the images, in each round

Contender = Callable[[], float]  # does its part of a round; returns images per second

_IMAGES = flags.DEFINE_integer('images', 512, 'Training images in the tar.', lower_bound=32)
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Rounds.', lower_bound=1)
_LOADER_BATCH = flags.DEFINE_integer('loader_batch', 128, 'Images in a batch of the loaders.', 1)
_STEP = flags.DEFINE_bool('step', False, 'Time training too, which takes minutes.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 32, 'Images in a batch of --step.', lower_bound=1)
_WIDTH = flags.DEFINE_float('width', 1.0, 'Multiplies the maps and units for --step.', 1e-3)
_OUTPUT = flags.DEFINE_string('output', None, 'A text file for the output.')


def prepare(tars: Path, form: str, where: Path) -> float:
    """Writes a data set as alexnet_jax.prepare does.

    Returns:
      Images per second, without the time for listing the tars.
    """
    listing = imagenet_tars.list_ilsvrc2012(tars, lambda *_: None)
    start = time.perf_counter()
    result = writing.write(listing, FORMS[form], where, 1, 0, lambda *_: None, lambda *_: None)
    return sum(result.images.values()) / (time.perf_counter() - start)


class Repeated:
    """A few examples repeated to the size of ILSVRC-2012: Grain shuffles few ones more slowly."""

    def __init__(self, examples: Any) -> None:
        self.examples, self.count = examples, len(examples)
        self.size = getattr(examples, 'size', 0)
        self.classes: list[str] = getattr(examples, 'classes', [])

    def __len__(self) -> int:
        return imagenet_tars.IMAGES_2012['train']

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.examples[index % self.count]

    def fetch(self, index: int, out_HWC: np.ndarray) -> dict[str, Any]:
        """Reads an example as `Records.fetch`."""
        return self.examples.fetch(index % self.count, out_HWC)

    def where(self, index: int) -> str:
        """Returns a name for an image; only bad images are named, and there are none."""
        return str(index)

    def batches(self, form: str, batch: int) -> int:
        """Returns how many batches are read in a round, without the first one."""
        return max(4, PASSES[form] * self.count // batch)


def open_forms(folder: Path) -> dict[str, Repeated]:
    """Opens the training images in each form."""
    sources = {}
    for form, storage in FORMS.items():
        place = folder / 'prepared' / storage.name('imagenet2012') / VERSION
        builder = tfds.builder_from_directory(str(place))
        sources[form] = Repeated(datasets.open_split(builder, 'train'))
    return sources


def measure(contenders: dict[str, Contender], rounds: int) -> Rates:
    """Runs the contenders in turn in each round, after a round that is not counted."""
    results = [{name: run() for name, run in contenders.items()} for _ in range(1 + rounds)]
    return {name: [rates[name] for rates in results[1:]] for name in contenders}


def for_each(items: Any, do: Callable[[Any], object]) -> Contender:
    """Returns a contender that calls a function with each item."""

    def run() -> float:
        start = time.perf_counter()
        for item in items:
            do(item)
        return len(items) / (time.perf_counter() - start)

    return run


def clock(batches: Iterator[Any], count: int, batch: int, at_once: int) -> float:
    """Returns images per second, from the arrival of batch `at_once` to that of `count` more."""
    for _ in range(at_once):
        next(batches)
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    return count * batch / (time.perf_counter() - start)


def ours(source: Repeated, count: int, batch: int, threads: int) -> Contender:
    """Returns our loader, restarted in each round, with a batch kept ready for each thread."""
    reading = loader.Reading(SIZE, threads=threads, prefetch=threads + 2)

    def run() -> float:
        # Not in a variable: it must end with the clock.
        rate = clock(loader.training_batches(source, reading, 0, batch, 0), count, batch, threads)
        for thread in threading.enumerate():
            if thread.name.startswith('grain'):
                thread.join()  # its remaining work must not disturb the next contender
        return rate

    return run


def return_true(*_: Any) -> bool:
    """Stands for decoding; a Mock would take longer."""
    return True


def without_decoding(loads: Contender) -> Contender:
    """Returns our loader without the work of decoding and scaling JPEGs."""

    def run() -> float:
        with mock.patch.object(images, 'decode_into', return_true):
            return loads()

    return run


def pillow(data: bytes, scale: bool) -> Image.Image:
    """Decodes with Pillow; with `scale`, scales the short side to 256 and crops to 256x256."""
    picture = Image.open(io.BytesIO(data)).convert('RGB')
    if not scale:
        return picture
    width, height = (SIZE * side // min(picture.size) for side in picture.size)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return picture.crop((left, top, left + SIZE, top + SIZE))


def one_core(folder: Path, rounds: int, batch: int) -> Rates:
    """Measures decoding, scaling, preparing and loading on one core."""
    os.environ['RAYON_NUM_THREADS'] = '1'  # read when an image is first scaled
    if hasattr(os, 'sched_setaffinity'):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    sources = open_forms(folder)
    large, small = ([r['image'] for r in sources[n].examples] for n in ('original', '256 JPEG'))
    place_HWC = np.empty((SIZE, SIZE, 3), np.uint8)
    tiny = [images.encode(np.zeros((16, 16, 3), np.uint8), 90)] * 5000
    tiny_HWC = np.empty((16, 16, 3), np.uint8)

    def prepare_again() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as where:
            return prepare(folder / 'tars', '256 JPEG', Path(where))

    contenders = {
        'Pillow: decodes a 256 JPEG': for_each(small, lambda data: np.asarray(pillow(data, False))),
        'ours: decodes a 256 JPEG': for_each(
            small, lambda data: images.decode_into(data, place_HWC)
        ),
        'Pillow: scales an original': for_each(large, lambda data: np.asarray(pillow(data, True))),
        'ours: scales an original': for_each(
            large, lambda data: images.square(data, SIZE, 'bicubic')
        ),
        'ours: prepares a 256 JPEG': prepare_again,
        'tiny, original': for_each(tiny, lambda data: images.square(data, 8, 'bicubic')),
        'tiny, 256 JPEG': for_each(tiny, lambda data: images.decode_into(data, tiny_HWC)),
    }
    for form, source in sources.items():
        loads = ours(source, source.batches(form, batch), batch, threads=1)
        contenders[f'ours: batches, {form}'] = loads
        contenders[f'undecoded, {form}'] = without_decoding(loads)
    return measure(contenders, rounds)


class Files:
    """A data set for PyTorch: files, opened by Pillow, with random crops and horizontal flips."""

    def __init__(self, source: Repeated, folder: Path, scale: bool) -> None:
        self._scale = scale
        self._paths = [folder / f'{index}.jpg' for index in range(source.count)]
        folder.mkdir(parents=True)
        for path, record in zip(self._paths, source.examples, strict=True):
            path.write_bytes(record['image'])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        import torch

        picture = pillow(self._paths[index].read_bytes(), self._scale)
        left, top = (random.randrange(SIZE - CROP + 1) for _ in range(2))
        picture = picture.crop((left, top, left + CROP, top + CROP))
        if random.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1), index % photographs.SYNSETS


def pytorch(files: Any, count: int, batch: int) -> Contender:
    """Returns PyTorch's loader, whose processes persist from round to round."""
    from torch.utils.data import DataLoader, RandomSampler

    order = RandomSampler(files, num_samples=(CORES + count) * batch)
    batches = DataLoader(files, batch, sampler=order, num_workers=CORES, persistent_workers=True)

    def run() -> float:
        iterator = iter(batches)
        rate = clock(iterator, count, batch, CORES)
        assert next(iterator, None) is None  # so that no process keeps reading
        return rate

    return run


def all_cores(folder: Path, rounds: int, batch: int) -> Rates:
    """Measures complete loaders; ours with one thread, with two and with as many as it chooses."""
    sources, contenders = open_forms(folder), {}
    if TORCH:  # its processes are started before our threads
        for form in ('original', '256 JPEG'):
            files = Files(sources[form], folder / 'files' / form, scale=form == 'original')
            count = sources[form].batches(form, batch)
            contenders[f'PyTorch: {form}'] = pytorch(files, count, batch)
    for form, source in sources.items():
        for threads in sorted({1, 2, CORES, SCALING if form == 'original' else CORES}):
            count = source.batches(form, batch)
            contenders[OURS.format(threads, form)] = ours(source, count, batch, threads)
    return measure(contenders, rounds)


def training(folder: Path, rounds: int, batch_size: int, width: float) -> Rates:
    """Measures blocks of steps, on one batch that stays on the devices and on the loader's."""
    config = make_config(2, batch_size, width=width)
    data = dataclasses.replace(config.dataset, data_dir=str(folder / 'prepared'))
    cpu_devices.prepare_cpu_devices(config.mesh.tower, config.mesh.data)
    mesh, reading = towers.choose_mesh(config), loader.Reading.from_config(config)
    splits = datasets.open_splits(data)
    constants = place_constants(config, mesh, compute_inputs(config, splits))
    train_step, state = make_train_step(config, mesh), place_initial_state(config, mesh)
    numbers = Hyperparameters.at(config, 0.0, Progress()).pack()
    stream = loader.training_batches(
        Repeated(splits.train), reading, config.seed, batch_size, first_step=0
    )
    batches = (towers.put_batch(mesh, batch) for batch in stream)
    same = next(batches)

    def blocks(next_batch: Callable[[], dict[str, jax.Array]]) -> Contender:
        batch = next_batch()

        def run() -> float:
            nonlocal state, batch
            pending, start = None, time.perf_counter()
            for _ in range(STEPS):
                state, metrics = train_step(state, batch, constants, numbers)
                batch = next_batch()
                if pending is not None:
                    check_finite(float(jax.device_get(pending)['loss']))
                pending = metrics
            jax.block_until_ready((state, pending))
            return STEPS * batch_size / (time.perf_counter() - start)

        return run

    kinds = {'stays on the devices': lambda: same, 'comes from the loader': lambda: next(batches)}
    return measure({name: blocks(next_batch) for name, next_batch in kinds.items()}, rounds)


def alone(function: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """Calls a function in a process of its own.

    Returns:
      The result; a line that says how busy other processes were, '' where that is unknown.
    """
    others, start, before = Others(), time.perf_counter(), os.times()
    context = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(1, context) as process:
        result = process.submit(function, *arguments).result()
    after, seconds, fraction = os.times(), time.perf_counter() - start, others.fraction()
    if fraction is None:
        return result, ''
    children = sum(after[2:4]) - sum(before[2:4])  # seconds
    fraction = max(0.0, fraction - children / seconds / CORES)
    return result, f'other processes took {fraction:.0%} of the cores meanwhile\n'


def report(folder: Path) -> Iterator[str]:
    """Yields the output, piece by piece."""
    rounds, batch = _ROUNDS.value, _LOADER_BATCH.value
    packages = ('jax', 'jaxlib', 'flax', 'optax', *(['torch'] if TORCH else []), *PACKAGES)
    yield heading(circumstances(packages))
    size = photographs.make_tars(folder / 'tars', _IMAGES.value)
    for form in FORMS:
        prepare(folder / 'tars', form, folder / 'prepared')
    small = mean(len(record['image']) for record in open_forms(folder)['256 JPEG'].examples)
    yield (
        f'{_IMAGES.value} images: originals of {size / 1e3:.0f} kB, 256 JPEGs of '
        f'{small / 1e3:.0f} kB; {rounds} rounds'
    )
    one, busy = alone(one_core, folder, rounds, batch)
    yield f'\n{table("one core", ONE_CORE, one)}\n{busy}{PREPARING}'
    many, busy = alone(all_cores, folder, rounds, batch)
    squares = SQUARES.format(batch=batch)
    yield f'\n{table(f"whole loader, {CORES} cores", ALL_CORES, many)}\n{busy}{squares}'
    if not TORCH:
        yield NO_TORCH
    if _STEP.value:
        steps, busy = alone(training, folder, rounds, _BATCH_SIZE.value, _WIDTH.value)
        same, loaded = (median(steps[name]) for name in steps)
        yield (
            f'\n{table("training, a batch", TRAINING, steps)}\n{busy}'
            f'Batches of {_BATCH_SIZE.value}, blocks of {STEPS} steps. With the loader a step\n'
            f'takes {same / loaded:.3f} times as long (medians; goal: at most 1.05).'
        )
    title = f'A host of {HOST_CORES} cores: a calculation from these rates, not a measurement.'
    yield f'\n{title}\n{host([*FORMS], one, many)}\n{HOST}'


def main(_: Sequence[str]) -> None:
    """Prints the results, and writes them to a file where one is named."""
    logging.set_verbosity(logging.ERROR)
    pieces = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for piece in report(Path(folder)):
                print(piece, flush=True)
                pieces.append(piece)
    except UserError as error:
        sys.exit(f'input.py: {error}')
    if _OUTPUT.value:
        file = Path(_OUTPUT.value)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('\n'.join(pieces) + '\n')


if __name__ == '__main__':
    app.run(main, flags_parser=parse_flags)
