"""Times the way from tars to batches: ours beside Pillow's and PyTorch's, on made-up photographs.

    python benchmarks/input.py [--images=512] [--rounds=5] [--step] [--output=FILE]

A tar of JPEGs of 500x375 pixels is prepared in three forms: the originals, 256x256 as JPEGs, and
256x256 as raw pixels. All of it stays in the system's memory, so disks are not measured. In each
round every contender does its share, in turn, after a round that is not counted. Tables have the
medians of the rounds; a ratio is the median of those of the rounds.

- One core: the process is kept to one (Linux), its libraries to one thread. Pillow decodes in full:
  at this size its reduced decoding would not set in, and neither does ours.
- All cores: our loader's threads beside as many processes of torch.utils.data.DataLoader, which
  reads the same images as files with Pillow. Clocks start when the first batch has come, and run
  for many more than are kept ready.
- Training (--step, minutes): blocks of steps of the full net on CPU devices, a tower on each of
  two, the next batch being fetched as alexnet_jax/training/loop.py does it.
"""

import os

os.environ |= {'OMP_NUM_THREADS': '1', 'JAX_PLATFORMS': 'cpu'}  # read when libraries are imported

import concurrent.futures
import dataclasses
import importlib.metadata
import importlib.util
import io
import math
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

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds
from absl import app, flags, logging
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import photographs
from torch_net import check_finite

from alexnet_jax.data import catalogue, images, loader, writing
from alexnet_jax.data import sources as datasets
from alexnet_jax.model import towers
from alexnet_jax.runtime import cpu_devices
from alexnet_jax.runtime.text_table import align_columns
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training import optimizer
from alexnet_jax.training.state import place_constants, place_initial_state
from alexnet_jax.training.step import make_train_step

SIZE, CROP, BATCH = 256, 224, 128  # training has a batch of its own
STEPS = 5  # in a block
HOST_CORES, DEMANDS = 16, (20_000, 50_000)  # images per second
CORES = os.cpu_count() or 1
TORCH = importlib.util.find_spec('torch') is not None
PACKAGES = ('numpy', 'pillow', 'simplejpeg', 'kornia_rs', 'grain', 'array-record')
FORMS = {
    'original': writing.Storage(size=0),
    '256 JPEG': writing.Storage(SIZE),
    '256 raw': writing.Storage(SIZE, raw=True),
}
PASSES = {'original': 3, '256 JPEG': 8, '256 raw': 24}  # over the images, in a round

OURS = 'ours, {} threads: {}'  # the name of a contender

Contender = Callable[[], float]  # does its share of a round; images per second
Rates = dict[str, list[float]]  # of each contender, in each round
Goals = dict[str, tuple[str, float]]  # ours: the rival, and how many times faster; or '', images/s

_IMAGES = flags.DEFINE_integer('images', 512, 'Training images in the tar.', lower_bound=32)
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Rounds.', lower_bound=1)
_STEP = flags.DEFINE_bool('step', False, 'Time training too; takes minutes.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 32, 'Images in a batch of --step.', lower_bound=1)
_OUTPUT = flags.DEFINE_string('output', None, 'A file for what is printed.')


def prepare(tars: Path, form: str, where: Path) -> float:
    """Writes a data set as alexnet_jax.prepare does; images per second, listing left out."""
    found = catalogue.ilsvrc2012(tars, lambda *_: None)
    start = time.perf_counter()
    result = writing.write(found, FORMS[form], where, 1, 0, lambda *_: None, lambda *_: None)
    return sum(result.images.values()) / (time.perf_counter() - start)


class Repeated:
    """A few examples, as if they were all of ILSVRC-2012: Grain takes longer to shuffle few."""

    def __init__(self, examples: Any) -> None:
        self.examples, self.count = examples, len(examples)
        self.size = getattr(examples, 'size', 0)
        self.classes: list[str] = getattr(examples, 'classes', [])

    def __len__(self) -> int:
        return catalogue.IMAGES_2012['train']

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.examples[index % self.count]

    def where(self, index: int) -> str:
        """Only bad images are named, and there are none."""
        return str(index)

    def batches(self, form: str) -> int:
        """How many are read in a round, beside the first."""
        return max(4, PASSES[form] * self.count // BATCH)


def open_forms(folder: Path) -> dict[str, Repeated]:
    """The training images in each form."""
    sources = {}
    for form, storage in FORMS.items():
        place = folder / 'prepared' / storage.name('imagenet2012') / writing.VERSION
        builder = tfds.builder_from_directory(str(place))
        sources[form] = Repeated(datasets.open_split(builder, 'train'))
    return sources


def measure(contenders: dict[str, Contender], rounds: int) -> Rates:
    """Each contender in each round, in turn, after a round that is not counted."""
    taken = [{name: run() for name, run in contenders.items()} for _ in range(1 + rounds)]
    return {name: [rates[name] for rates in taken[1:]] for name in contenders}


def over(items: Any, do: Callable[[Any], object]) -> Contender:
    """Does the same with each."""

    def run() -> float:
        start = time.perf_counter()
        for item in items:
            do(item)
        return len(items) / (time.perf_counter() - start)

    return run


def clock(batches: Iterator[Any], count: int) -> float:
    """Images per second from the arrival of the first batch to that of `count` more."""
    next(batches)
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    return count * BATCH / (time.perf_counter() - start)


def ours(source: Repeated, count: int, threads: int, size: int = SIZE) -> Contender:
    """Our loader, begun anew in each round, with a batch kept ready for each thread."""
    reading = loader.Reading(size, threads=threads, ahead=threads + 2)

    def run() -> float:
        rate = clock(loader.training_batches(source, reading, 0, BATCH, 0), count)
        for thread in threading.enumerate():
            if thread.name.startswith('grain'):
                thread.join()  # what it still does must not disturb the next contender
        return rate

    return run


def pillow(data: bytes, scale: bool) -> Image.Image:
    """Decoded; with `scale` the short side to 256 pixels, then the central 256x256."""
    picture = Image.open(io.BytesIO(data)).convert('RGB')
    if not scale:
        return picture
    width, height = (SIZE * side // min(picture.size) for side in picture.size)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return picture.crop((left, top, left + SIZE, top + SIZE))


def one_core(folder: Path, rounds: int) -> Rates:
    """What one core does."""
    os.environ['RAYON_NUM_THREADS'] = '1'  # read when something is scaled first
    if hasattr(os, 'sched_setaffinity'):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    sources = open_forms(folder)
    large, small = ([r['image'] for r in sources[n].examples] for n in ('original', '256 JPEG'))
    place_HWC = np.empty((SIZE, SIZE, 3), np.uint8)
    tiny = Repeated([{'image': np.zeros((8, 8, 3), np.uint8), 'label': 0}])

    def prepare_again() -> float:
        with tempfile.TemporaryDirectory(dir=folder) as where:
            return prepare(folder / 'tars', '256 JPEG', Path(where))

    contenders = {
        'Pillow: decodes a 256 JPEG': over(small, lambda data: np.asarray(pillow(data, False))),
        'ours: decodes a 256 JPEG': over(small, lambda data: images.decode_into(data, place_HWC)),
        'Pillow: scales an original': over(large, lambda data: np.asarray(pillow(data, True))),
        'ours: scales an original': over(large, lambda data: images.square(data, SIZE, 'bicubic')),
        'ours: prepares a 256 JPEG': prepare_again,
        'tiny': ours(tiny, 200, threads=1, size=8),
    }
    for form, source in sources.items():
        contenders[f'ours: batches, {form}'] = ours(source, source.batches(form), threads=1)
        contenders[f'records, {form}'] = over(range(source.count), source.examples.__getitem__)
    return measure(contenders, rounds)


class Files:
    """A data set as PyTorch wants it: files, opened by Pillow, cropped and mirrored at random."""

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


def pytorch(files: Any, count: int) -> Contender:
    """PyTorch's loader, whose processes stay from round to round."""
    from torch.utils.data import DataLoader, RandomSampler

    order = RandomSampler(files, num_samples=(1 + count) * BATCH)
    batches = DataLoader(files, BATCH, sampler=order, num_workers=CORES, persistent_workers=True)

    def run() -> float:
        iterator = iter(batches)
        rate = clock(iterator, count)
        assert next(iterator, None) is None  # so that no process reads on
        return rate

    return run


def all_cores(folder: Path, rounds: int) -> Rates:
    """Whole loaders; ours with one and with two threads too."""
    sources, contenders = open_forms(folder), {}
    if TORCH:  # its processes begin before our threads
        for form in ('original', '256 JPEG'):
            files = Files(sources[form], folder / 'files' / form, scale=form == 'original')
            contenders[f'PyTorch: {form}'] = pytorch(files, sources[form].batches(form))
    for form, source in sources.items():
        for threads in sorted({1, 2, CORES}):
            contenders[OURS.format(threads, form)] = ours(source, source.batches(form), threads)
    return measure(contenders, rounds)


def training(folder: Path, rounds: int, batch_size: int) -> Rates:
    """Blocks of steps, on a batch that stays on the devices and on those of the loader."""
    from step import make_config  # it has flags of its own, which are not ours

    config = make_config(2, batch_size)
    data = dataclasses.replace(config.dataset, data_dir=str(folder / 'prepared'))
    cpu_devices.prepare_cpu_devices(config.mesh.tower, config.mesh.data)
    mesh, reading = towers.choose_mesh(config), loader.Reading.of(config)
    splits = datasets.open_splits(data)
    constants = place_constants(config, mesh, splits)
    take, state = make_train_step(config, mesh), place_initial_state(config, mesh)
    rate, deviation = config.learning_rate.initial, config.augmentation.colour.deviation
    stream = loader.training_batches(
        Repeated(splits.train), reading, config.seed, batch_size, first_step=0
    )
    batches = (towers.put_batch(mesh, batch) for batch in stream)
    same = next(batches)

    def blocks(following: Callable[[], dict[str, jax.Array]]) -> Contender:
        batch = following()

        def run() -> float:
            nonlocal state, batch
            pending, start = None, time.perf_counter()
            for _ in range(STEPS):
                numbers = optimizer.Rates.equal(rate), jnp.float32(deviation)
                state, coming = take(state, batch, constants, *numbers)
                batch = following()
                if pending is not None:
                    check_finite(float(jax.device_get(pending)['loss']))
                pending = coming
            jax.block_until_ready((state, pending))
            return STEPS * batch_size / (time.perf_counter() - start)

        return run

    kinds = {'stays on the devices': lambda: same, 'comes from the loader': lambda: next(batches)}
    return measure({name: blocks(following) for name, following in kinds.items()}, rounds)


ONE_CORE: Goals = {
    'ours: decodes a 256 JPEG': ('Pillow: decodes a 256 JPEG', 1.3),
    'ours: scales an original': ('Pillow: scales an original', 0),
    'ours: prepares a 256 JPEG': ('Pillow: scales an original', 1.5),
    'ours: batches, original': ('', 0),
    'ours: batches, 256 JPEG': ('', 0),
    'ours: batches, 256 raw': ('', 10_000),
}
ALL_CORES: Goals = {
    OURS.format(CORES, 'original'): ('PyTorch: original', 2),
    OURS.format(CORES, '256 JPEG'): ('PyTorch: 256 JPEG', 2),
    OURS.format(CORES, '256 raw'): ('', 0),
}
TRAINING: Goals = {'comes from the loader': ('stays on the devices', 0)}


def number(value: float) -> str:
    """At least three digits; '' for 0."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f'{value:,.{digits}f}' if value else ''


def table(title: str, goals: Goals, rates: Rates) -> str:
    """Rivals and ours."""
    header = (title, 'images/s', 'slowest', 'fastest', 'ratio', 'goal')
    rows: dict[str, tuple[str, ...]] = {'': header}
    for name, (rival, goal) in goals.items():
        own, other = rates[name], rates.get(rival, [])
        ratio = median(a / b for a, b in zip(own, other, strict=True)) if other else 0.0
        value = ratio if rival else median(own)
        verdict = f'{number(goal)}, {"met" if value >= goal else "missed"}' if goal * value else ''
        for row, numbers, rest in ((rival, other, ('', '')), (name, own, (number(ratio), verdict))):
            if numbers:
                spread = (median(numbers), min(numbers), max(numbers))
                rows[row] = (row, *map(number, spread), *rest)
    return align_columns([*rows.values()])


def host(one: Rates, many: Rates) -> str:
    """What the rates on these cores would mean on a host of 16."""
    header = ['form', 'a core', f'x {HOST_CORES}', '2 threads / 1', 'lock, us', 'lock allows']
    bandwidths = {demand: demand * SIZE**2 * 3 / 1e9 for demand in DEMANDS}
    rows = [[*header, 'GB/s', *(f'{d:,} ({b:.1f} GB/s)' for d, b in bandwidths.items())]]
    for form in FORMS:
        rate = median(one[f'ours: batches, {form}'])
        pairs = zip(many[OURS.format(2, form)], many[OURS.format(1, form)], strict=True)
        lock = 1 / median(one['tiny']) + 1 / median(one[f'records, {form}'])
        feeds = min(HOST_CORES * rate, 1 / lock)
        values = (rate, HOST_CORES * rate, median(two / own for two, own in pairs), lock * 1e6)
        cells = map(number, (*values, 1 / lock, feeds * SIZE**2 * 3 / 1e9))
        needs = (f'{number(d / rate)}, {math.ceil(d * lock)}' for d in DEMANDS)
        rows.append([form, *cells, *needs])
    return align_columns(rows)


# Said below the tables.
PREPARING = """\
'prepares' is datasets.writing.write with one worker: it decodes, scales, encodes, counts for the
statistics, writes records and metadata, and begins with a sample of 32 images for their size."""
SQUARES = f"""\
Batches of {BATCH}. PyTorch's are crops of {CROP}, half of them mirrored. Ours are whole squares of
{SIZE}, a third more bytes, since training crops and mirrors on the device."""
HOST = """\
The first two columns and 'lock allows' are images/s. 'lock': microseconds an image in which a
thread may hold Python's interpreter lock: all that the loader does on tiny images that are there,
and all of reading a record, of which a part lets go of it. 'lock allows' follows, what one process
would feed were nothing else in the way; where two threads gain little over one, it is less. 'GB/s':
to the devices, at the smaller of both rates. Last: the cores and, by the lock, the processes
(loader.workers) for so many images/s. Not in here: passing batches between processes, disks, and
that cores share memory and clock."""


def alone(function: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """Calls it in a process of its own; the result, and how busy other processes were."""
    from measuring import Others

    others, start, before = Others(), time.perf_counter(), os.times()
    context = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(1, context) as process:
        result = process.submit(function, *arguments).result()
    after, seconds, share = os.times(), time.perf_counter() - start, others.share()
    if share is None:
        return result, ''
    children = sum(after[2:4]) - sum(before[2:4])  # seconds
    share = max(0.0, share - children / seconds / CORES)
    return result, f'other processes took {share:.0%} of the cores meanwhile\n'


def report(folder: Path) -> Iterator[str]:
    """What is printed, piece by piece."""
    from measuring import circumstances, heading

    rounds = _ROUNDS.value
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
    one, busy = alone(one_core, folder, rounds)
    yield f'\n{table("one core", ONE_CORE, one)}\n{busy}{PREPARING}'
    many, busy = alone(all_cores, folder, rounds)
    yield f'\n{table(f"whole loader, {CORES} cores", ALL_CORES, many)}\n{busy}{SQUARES}'
    if not TORCH:
        yield 'PyTorch is not installed: pip install torch, and its rows come too'
    if _STEP.value:
        steps, busy = alone(training, folder, rounds, _BATCH_SIZE.value)
        same, loaded = (median(steps[name]) for name in steps)
        yield (
            f'\n{table("training, a batch", TRAINING, steps)}\n{busy}'
            f'Batches of {_BATCH_SIZE.value}, blocks of {STEPS} steps. With the loader a step\n'
            f'takes {same / loaded:.3f} times as long (medians; goal: at most 1.05).'
        )
    title = f'A host of {HOST_CORES} cores: a calculation from these rates, not a measurement.'
    yield f'\n{title}\n{host(one, many)}\n{HOST}'


def main(_: Sequence[str]) -> None:
    """Prints, and writes what was printed."""
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
    app.run(main)
