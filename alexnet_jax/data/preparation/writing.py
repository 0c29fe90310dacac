"""Writes a TFDS data set in ArrayRecord from a catalogue, in parallel; resumable (§2).

While it is being written the data set is the hidden folder `.VERSION.incomplete` beside its final
location. A restart keeps the shards that are complete (shards.py). The folder gets its final name
last, so that a data set that TFDS lists is always complete. Of several processes that want the same
data set one writes it, and the others wait and use it.
"""

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from alexnet_jax.data import image_index, pixel_statistics
from alexnet_jax.data.images import BadImage
from alexnet_jax.data.preparation import copies, prepared_sets, workers
from alexnet_jax.data.preparation.catalogue import Catalogue
from alexnet_jax.data.preparation.disk_space import check_space, format_size
from alexnet_jax.data.preparation.prepared_sets import SOURCE, command_of_images, read_source
from alexnet_jax.data.preparation.shards import SUMMARIES, Shard, Summary, divide
from alexnet_jax.data.preparation.storage import VERSION, Storage
from alexnet_jax.data.preparation.tfds_sets import hash_names
from alexnet_jax.runtime import atomic_files, cpu_devices, locks
from alexnet_jax.runtime.printing import list_names
from alexnet_jax.runtime.signals import raise_if_stopped
from alexnet_jax.runtime.user_errors import UserError

_OTHER_DISK = 'choose another data_dir'
FEW_IMAGES = 300  # are written before worker processes have started, which takes 3 s

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
    again: bool = False,
) -> Result:
    """Writes a data set, resumes one that was stopped, or returns the one that is there.

    Args:
      catalogue: the images.
      storage: how they are stored.
      data_dir: where TFDS keeps data sets.
      processes: worker processes; 0 for one per core, or for none if there are few images.
      skip_bad: number of training images that may be left out because they cannot be decoded.
      announce: receives lines about what is about to happen.
      report: receives progress: at each image, or twice a second.
      again: whether the data set is written even if it is there, and takes its place when it is
        complete.

    Raises:
      Stopped: a signal asked this process to stop; the same call resumes.
      UserError: an image is bad, the disk is too small, or the data set exists and was prepared
        from something else.
    """
    final = folder_of(data_dir, catalogue, storage)
    _refuse_folder_of_images(data_dir, catalogue)
    if not again and (result := _find_prepared(final, catalogue, storage, announce)):
        return result  # without a lock: a shared data set is often read-only
    with locks.acquire(final.parent / '.lock', 'choose another data_dir', wait=True):
        prepared_sets.restore(final)
        if not again and (result := _find_prepared(final, catalogue, storage, announce)):
            return result  # by the process that this one has waited for
        unfinished = final.with_name(f'.{VERSION}.incomplete')
        shards = divide(catalogue, storage, unfinished, skip_bad > 0)
        _make_folder(unfinished, shards)
        missing = [shard for shard in shards if Summary.load(shard) is None]
        if missing and catalogue.stream:
            catalogue = _copy_images(catalogue, storage, unfinished, missing, announce, report)
            shards = divide(catalogue, storage, unfinished, skip_bad > 0)
            missing = [shard for shard in shards if Summary.load(shard) is None]
        total = sum(len(shard.names) for shard in shards)
        done = total - sum(len(shard.names) for shard in missing)
        if done:
            announce(f'resuming after {done:,} of {total:,} images')
        _check_disk(missing, storage, data_dir, announce)

        def count(images: int) -> None:
            raise_if_stopped()
            report(done + images, total)

        few = total - done <= FEW_IMAGES
        processes = processes or (1 if few else cpu_devices.processor_count())
        workers.write_shards(missing, processes, count)
        return _finish(unfinished, final, catalogue, storage, shards, skip_bad)


def _copy_images(
    catalogue: Catalogue,
    storage: Storage,
    folder: Path,
    missing: list[Shard],
    announce: Announce,
    report: Report,
) -> Catalogue:
    """Copies images out of files that cannot be read in place; says first what that needs."""
    copied = copies.missing_bytes(catalogue, folder)
    images = sum(len(shard.names) for shard in missing)
    record = storage.size**2 * (3 if storage.raw else 0.5) if storage.size else copied / images
    if copied:
        announce(
            f'copying the images out of {catalogue.place} first, which can only be read from its '
            f'beginning to its end: {format_size(copied)}, removed when the data set is complete'
        )
    check_space(folder.parent, copied + int(record * images), _OTHER_DISK)
    return copies.copy_images(catalogue, folder, report)


def _find_prepared(
    final: Path, catalogue: Catalogue, storage: Storage, announce: Announce
) -> Result | None:
    """Returns what was prepared before from the same images; None if nothing was.

    Raises:
      UserError: what is there was prepared from other images, or by another program.
    """
    fingerprints = (catalogue.fingerprint(), catalogue.earlier_fingerprint)
    places = [final]
    if catalogue.movable:
        places += sorted(final.parents[1].glob(f'folder_*/{VERSION}'))
    for folder in places:
        source = read_source(folder)
        same = bool(source) and source['fingerprint'] in fingerprints
        if catalogue.movable:
            same = same and source['storage'] == dataclasses.asdict(storage)
        if same and catalogue.movable and 'content' in source:
            written = (folder / SOURCE).stat().st_mtime
            if folder != final or catalogue.may_differ_since(written):
                same = source['content'] == catalogue.content_fingerprint()
        elif folder != final:
            same = False
        if same:
            shutil.rmtree(folder / SUMMARIES, ignore_errors=True)  # may be left after a kill
            announce(f'already prepared in {folder}')
            return Result(folder, source['images'], source['skipped'])
    if not final.exists():
        return None
    again = command_of_images(catalogue.source, dataclasses.asdict(storage), final.parents[1])
    if source := read_source(final):
        now = sum(map(len, catalogue.splits.values()))
        then = sum(source['images'].values()) + len(source['skipped'])
        numbers = f' ({then:,} then, {now:,} now)' if then != now else ''
        raise UserError(
            f'{final} was prepared from other images{numbers}: choose another data_dir to keep '
            f'both, or replace it: {again}'
        )
    if catalogue.movable or (final / SOURCE).exists():
        raise UserError(f'{final / SOURCE} is damaged: prepare the data set again: {again}')
    raise UserError(
        f'{final} was not written by alexnet_jax.prepare: train on it as it is, or choose another '
        'data_dir'
    )


def _refuse_folder_of_images(data_dir: Path, catalogue: Catalogue) -> None:
    """Refuses to write among the folders of classes, where the data set would look like a class."""
    if not catalogue.movable:
        return
    place = data_dir.resolve()
    for entries in catalogue.splits.values():
        for name, file in zip(entries.names[:1], entries.files, strict=False):
            root = Path(file).parents[name.count('/')].resolve()
            if place.is_relative_to(root):
                raise UserError(
                    f'{data_dir} is in the folder of the images, {root}, where prepared images '
                    'would look like a class: choose another data_dir'
                )


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
    free = format_size(shutil.disk_usage(data_dir).free)
    announce(f'about {format_size(need)} to write in {data_dir}, {free} free')
    check_space(data_dir, need, _OTHER_DISK)


def _sample_record_size(shards: list[Shard]) -> float:
    """Returns the mean size in bytes of a record with a JPEG, from a sample of images.

    One image in a hundred at most, since they are converted once more later.
    """
    sizes: list[int] = []
    samples = min(32, 1 + sum(len(shard.names) for shard in shards) // 100)
    for i in np.linspace(0, len(shards) - 1, samples).astype(int):
        shard = shards[i]
        row = len(sizes) * len(shard.names) // samples
        with shard.reader(shard.files) as reader:
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
    indexes = []
    for shard in shards:
        summary = Summary.load(shard)
        if summary is None:
            raise UserError(
                f'{shard.path} changed while the data set was written: run the same command again'
            )
        lengths[shard.split].append(summary.images)
        skipped += summary.skipped
        indexes.append((shard.path, summary.index))
        if summary.sums:
            sums.merge(summary.sums)
    if len(skipped) > skip_bad:
        raise UserError(
            f'{len(skipped)} training images cannot be decoded ({list_names(skipped)}): '
            f'repair or replace them, or leave them out with --skip_bad={len(skipped)}'
        )
    if sums.images:
        scaled_by = '' if storage.size else storage.filter
        size = storage.statistics_size
        sums.save(pixel_statistics.statistics_file(unfinished, 'train', size, scaled_by))
    _write_metadata(unfinished, catalogue, storage, shards, lengths)
    if [len(entries) for _, entries in indexes] == list(itertools.chain(*lengths.values())):
        image_index.save(unfinished, indexes)
    counts = {split: sum(numbers) for split, numbers in lengths.items()}
    source = {
        'images': counts,
        'published': catalogue.published,
        'skipped': skipped,
        'fingerprint': catalogue.fingerprint(),
        'splits': catalogue.split_fingerprints(),
        'storage': dataclasses.asdict(storage),
        'source': catalogue.source,
        'class_names': hash_names(catalogue.classes),
        'content': catalogue.content_fingerprint() if catalogue.movable else '',
    }
    with atomic_files.replace(unfinished / SOURCE) as partial:
        partial.write_text(json.dumps(source, indent=2) + '\n')
    shutil.rmtree(unfinished / copies.COPIES, ignore_errors=True)
    prepared_sets.replace(final, unfinished)
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
