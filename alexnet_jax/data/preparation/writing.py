"""Writes a TFDS data set in ArrayRecord from a catalogue, in parallel; resumable (§2).

While it is being written the data set is the hidden folder `.VERSION.incomplete` beside its final
location. A restart keeps the shards that are complete (shards.py). The folder gets its final name
last, so that a data set that TFDS lists is always complete.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from alexnet_jax.data import pixel_statistics
from alexnet_jax.data.images import BadImage
from alexnet_jax.data.preparation import workers
from alexnet_jax.data.preparation.catalogue import Catalogue
from alexnet_jax.data.preparation.shards import SUMMARIES, FileReader, Shard, Summary, divide
from alexnet_jax.data.preparation.storage import VERSION, Storage
from alexnet_jax.runtime import atomic_files, cpu_devices, locks
from alexnet_jax.runtime.user_errors import UserError

SPARE = 1 << 30  # bytes of disk to leave free
SOURCE = 'prepared.json'  # in the data set's folder: what it was prepared from

Announce = Callable[[str], None]  # receives a line for the user
Report = Callable[[int, int], None]  # receives images done, images in total


@dataclasses.dataclass(frozen=True)
class Result:
    """A prepared data set.

    Attributes:
      folder: the folder of the data set.
      images: number of images of each split.
      skipped: names of the images that were left out because they cannot be decoded.
    """

    folder: Path
    images: dict[str, int]
    skipped: list[str]


def folder_of(data_dir: Path, catalogue: Catalogue, storage: Storage) -> Path:
    """Returns the folder of the complete data set."""
    return data_dir / storage.name(catalogue.name) / VERSION


def write(
    catalogue: Catalogue,
    storage: Storage,
    data_dir: Path,
    processes: int,
    skip_bad: int,
    announce: Announce,
    report: Report,
) -> Result:
    """Writes a data set, and resumes one that was stopped.

    Args:
      catalogue: the images.
      storage: how they are stored.
      data_dir: where TFDS keeps data sets.
      processes: worker processes; 0 for one per core.
      skip_bad: number of training images that may be left out because they cannot be decoded.
      announce: receives lines about what is about to happen.
      report: receives progress: at each image, or twice a second.

    Raises:
      UserError: an image is bad, the disk is too small, another process is writing the same data
        set, or the data set exists and was prepared from something else.
    """
    final = folder_of(data_dir, catalogue, storage)
    unfinished = final.with_name(f'.{VERSION}.incomplete')
    with locks.acquire(final.parent / '.lock', 'choose another data_dir'):
        if final.exists():
            announce(f'already prepared in {final}')
            return _read_existing(final, catalogue)
        shards = divide(catalogue, storage, unfinished, skip_bad > 0)
        _make_folder(unfinished, shards)
        missing = [shard for shard in shards if Summary.load(shard) is None]
        total = sum(len(shard.names) for shard in shards)
        done = total - sum(len(shard.names) for shard in missing)
        if done:
            announce(f'resuming after {done:,} of {total:,} images')
        _check_disk(missing, storage, data_dir, announce)
        workers.write_shards(
            missing,
            processes or cpu_devices.processor_count(),
            lambda images: report(done + images, total),
        )
        return _finish(unfinished, final, catalogue, storage, shards, skip_bad)


def _read_existing(folder: Path, catalogue: Catalogue) -> Result:
    """Returns what was prepared before from the same images.

    Raises:
      UserError: it was prepared from other images, or by another program.
    """
    shutil.rmtree(folder / SUMMARIES, ignore_errors=True)  # may be left after a kill
    try:
        source = json.loads((folder / SOURCE).read_text())
        images, same = source['images'], source['fingerprint'] == catalogue.fingerprint()
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f'{folder} was not written by alexnet_jax.prepare: train on it as it is, or choose '
            'another data_dir'
        ) from error
    if not same:
        now = sum(map(len, catalogue.splits.values()))
        raise UserError(
            f'{folder} was prepared from other images ({sum(images.values()):,} then, {now:,} '
            'now): choose another data_dir, or move that folder away to prepare the present images'
        )
    return Result(folder, images, source['skipped'])


def _make_folder(unfinished: Path, shards: list[Shard]) -> None:
    """Makes the folder, and removes its files that are not among these shards."""
    (unfinished / SUMMARIES).mkdir(parents=True, exist_ok=True)
    paths = {shard.path for shard in shards}
    for file in unfinished.iterdir():
        if file.is_file() and file not in paths:
            file.unlink(missing_ok=True)


def _check_disk(shards: list[Shard], storage: Storage, data_dir: Path, announce: Announce) -> None:
    """Announces how much will be written, and refuses what does not fit on the disk."""
    if not shards:
        return
    if storage.size and storage.raw:
        record = storage.size**2 * 3 + 100.0
    elif storage.size:
        record = _sample_record_size(shards)
    else:
        record = float(np.concatenate([shard.locations[:, 2] for shard in shards]).mean()) + 100
    summaries = storage.statistics_size**2 * 24 * len(shards)  # removed at the end
    need = int(record * sum(len(shard.names) for shard in shards)) + summaries
    free = shutil.disk_usage(data_dir).free
    announce(f'about {need / 1e9:,.1f} GB to write in {data_dir}, {free / 1e9:,.1f} GB free')
    if need + SPARE > free:
        raise UserError(
            f'{data_dir} has {free / 1e9:,.1f} GB free and about {(need + SPARE) / 1e9:,.1f} GB '
            'are needed: free some space, or choose another data_dir'
        )


def _sample_record_size(shards: list[Shard], samples: int = 32) -> float:
    """Returns the mean size in bytes of a record with a JPEG, from a sample of images."""
    sizes = []
    for i in np.linspace(0, len(shards) - 1, samples).astype(int):
        shard = shards[i]
        row = len(sizes) * len(shard.names) // samples
        with FileReader(shard.files) as reader:
            try:
                data = reader.read(*shard.locations[row])
                sizes.append(len(shard.storage.convert(data, shard.upright)[0]))
            except BadImage:
                continue  # reported when its shard is written
    return float(np.mean(sizes or [30_000])) + 100


def _finish(
    unfinished: Path,
    final: Path,
    catalogue: Catalogue,
    storage: Storage,
    shards: list[Shard],
    skip_bad: int,
) -> Result:
    """Adds statistics and metadata, and gives the folder its final name."""
    sums, skipped = pixel_statistics.Sums.zeros(storage.statistics_size), []
    lengths: dict[str, list[int]] = {split: [] for split in catalogue.splits}
    for shard in shards:
        summary = Summary.load(shard)
        if summary is None:
            raise UserError(
                f'{shard.path} changed while the data set was written: run the same command again'
            )
        lengths[shard.split].append(summary.images)
        skipped += summary.skipped
        if summary.sums:
            sums.merge(summary.sums)
    if len(skipped) > skip_bad:
        raise UserError(
            f'{len(skipped)} training images cannot be decoded, for example {skipped[0]}: '
            f'pass --skip_bad={len(skipped)} to leave them out'
        )
    if sums.images:
        scaled_by = '' if storage.size else storage.filter
        size = storage.statistics_size
        sums.save(pixel_statistics.statistics_file(unfinished, 'train', size, scaled_by))
    _write_metadata(unfinished, catalogue, storage, shards, lengths)
    counts = {split: sum(numbers) for split, numbers in lengths.items()}
    source = {
        'images': counts,
        'published': catalogue.published,
        'skipped': skipped,
        'fingerprint': catalogue.fingerprint(),
        'storage': dataclasses.asdict(storage),
    }
    with atomic_files.replace(unfinished / SOURCE) as partial:
        partial.write_text(json.dumps(source, indent=2) + '\n')
    unfinished.rename(final)
    shutil.rmtree(final / SUMMARIES, ignore_errors=True)
    return Result(final, counts, skipped)


def _write_metadata(
    folder: Path,
    catalogue: Catalogue,
    storage: Storage,
    shards: list[Shard],
    lengths: dict[str, list[int]],
) -> None:
    """Writes the files that make the folder a TFDS data set; `lengths` are images per shard."""
    sizes = dict.fromkeys(catalogue.splits, 0)
    for shard in shards:
        sizes[shard.split] += shard.path.stat().st_size
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=storage.features(catalogue.classes),
        split_infos=[
            tfds.core.SplitInfo(name=split, shard_lengths=lengths[split], num_bytes=sizes[split])
            for split in catalogue.splits
        ],
        version=VERSION,
        check_data=False,
        description=catalogue.description,
        supervised_keys=('image', 'label'),
        homepage='https://image-net.org/' if catalogue.published else '',
    )
