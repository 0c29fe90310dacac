"""Copies of data sets in buckets (§2).

Training reads images in random order, 3,000 a second and more, and a request to a bucket takes
tens of milliseconds. So a data set in a bucket is copied to this machine before the first step: the
shards of the splits in use, each under its final name once it is complete and was read back.
"""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python import array_record_module

from alexnet_jax.data.buckets.bucket import Bucket
from alexnet_jax.data.preparation import prepared_sets, tfds_sets
from alexnet_jax.data.preparation.disk_space import check_space, format_size
from alexnet_jax.runtime import atomic_files, locks
from alexnet_jax.runtime.paths import refuse_pattern
from alexnet_jax.runtime.printing import printable
from alexnet_jax.runtime.progress import ProgressBars
from alexnet_jax.runtime.user_errors import UserError, explain_os_errors, first_line

FOLDER = '.buckets'  # in the folder where TFDS keeps data sets

_NAME = re.compile(r'(?P<name>\w+)(/(?P<config>[\w.-]+))?(:(?P<version>[\w.*]+))?')
_INFO = 'dataset_info.json'
# Files that change when a data set in a bucket is replaced by another one of the same name.
_IDENTITY = (_INFO, 'features.json', prepared_sets.SOURCE)
_RECORDS_AT_ONCE = 64


def fetch(address: str, name: str, splits: Iterable[str]) -> tfds.core.DatasetBuilder:
    """Copies what is missing here of a data set in a bucket, and opens the copy.

    Of several processes on a machine one copies, and the others wait and use the copy.

    Args:
      address: the folder in a bucket that stands for a `data_dir`: gs://BUCKET/FOLDER.
      name: name of the data set, as TFDS understands it.
      splits: the splits that are needed, as TFDS writes them: 'train', 'train[:10%]'.

    Raises:
      Stopped: a signal asked this process to stop; the same call resumes.
      UserError: the bucket or the data set cannot be read, the data set is not one of images in
        ArrayRecord, or the disk is too small.
    """
    bucket = Bucket(address, 'dataset.data_dir')
    objects, place = _find(bucket, name)
    folder = tfds_sets.data_dir('').joinpath(FOLDER, *bucket.parts, *place.split('/'))
    refuse_pattern(folder, 'dataset.data_dir')
    names = [x.removeprefix(f'{place}/') for x in objects if x.startswith(f'{place}/')]
    small = [x for x in names if '/' not in x and '.array_record' not in x and x[0] != '.']
    advice = 'set TFDS_DATA_DIR to another folder of this machine'
    with locks.acquire(folder.parent / '.lock', advice, wait=True), ProgressBars() as bars:
        with explain_os_errors(f'write {printable(str(folder))}'):
            _copy_metadata(bucket, place, small, folder, bars)
        try:
            builder = tfds.builder_from_directory(str(folder))
        except Exception as error:  # of many kinds, for damaged files
            raise UserError(
                f'{bucket.address}/{place} cannot be opened ({first_line(error)[:200]}): copy the '
                'data set to the bucket again'
            ) from error
        tfds_sets.check_features(builder)
        shards = _missing_shards(builder, splits)
        if shards:
            _check_disk(builder, shards, folder, bars)
            with explain_os_errors(f'write {printable(str(folder))}'):
                _copy_shards(bucket, place, shards, folder, bars)
    return builder


def _find(bucket: Bucket, name: str) -> tuple[list[str], str]:
    """Finds a data set in a bucket.

    Returns:
      All objects in the folder of this name, and the folder of the newest version, both relative to
      the folder of the bucket.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise UserError(
            f'{name!r} is not the name of a data set in a bucket: write it as NAME, NAME/CONFIG or '
            'NAME:VERSION'
        )
    objects = bucket.list_objects(match['name'])
    start = match['name'] + (f'/{match["config"]}' if match['config'] else '')
    pattern = match['version'] or '*.*.*'
    versions = {}
    for place in (x.rpartition('/')[0] for x in objects if x.endswith(f'/{_INFO}')):
        parent, _, version = place.rpartition('/')
        if parent == start and tfds.core.Version.is_valid(version) and '*' not in version:
            number = tfds.core.Version(version)
            if number.match(pattern):
                versions[place] = number
    if not versions:
        raise UserError(
            f'{bucket.address} has no data set {name} (a folder {start}/VERSION with {_INFO}): '
            'prepare it on this machine and copy it to the bucket, or choose another address'
        )
    return objects, max(versions, key=lambda place: versions[place])


def _copy_metadata(
    bucket: Bucket, place: str, names: list[str], folder: Path, bars: ProgressBars
) -> None:
    """Copies the small files of a data set; removes a copy of another data set of this name."""
    identity = [x for x in _IDENTITY if x in names]
    contents = {x.rpartition('/')[2]: data for x, data in bucket.read(_in(place, identity))}
    if folder.exists():
        here = {x: (folder / x).read_bytes() for x in _IDENTITY if (folder / x).exists()}
        if any(contents.get(x) != data for x, data in here.items()):
            bars.print_line(f'{bucket.address}/{place} has changed: copying it again')
            shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    others = [x for x in names if x not in _IDENTITY and not (folder / x).exists()]
    contents |= {x.rpartition('/')[2]: data for x, data in bucket.read(_in(place, others))}
    for name, data in contents.items():
        if not (folder / name).exists():
            with atomic_files.replace(folder / name) as partial:
                partial.write_bytes(data)


def _missing_shards(builder: tfds.core.DatasetBuilder, splits: Iterable[str]) -> dict[str, int]:
    """Returns the shards of these splits that are not here, and the number of records of each."""
    shards = {}
    for split in splits:
        try:
            parts = builder.info.splits[split].file_instructions
        except (ValueError, KeyError, AssertionError, TypeError):
            continue  # reported when the split is opened
        for part in parts:
            path = Path(part.filename)
            if not path.exists():
                shards[path.name] = part.examples_in_shard
    return shards


def _check_disk(
    builder: tfds.core.DatasetBuilder, shards: dict[str, int], folder: Path, bars: ProgressBars
) -> None:
    """Announces how much will be copied, and refuses what does not fit on the disk."""
    splits = builder.info.splits.values()
    size = sum(split.num_bytes for split in splits) / sum(split.num_examples for split in splits)
    need = size * sum(shards.values())
    bars.print_line(
        f'copying {len(shards):,} files, about {format_size(need)}, of {builder.name} to {folder}'
    )
    check_space(folder, need, 'set TFDS_DATA_DIR to a folder on another disk')


def _copy_shards(
    bucket: Bucket, place: str, shards: dict[str, int], folder: Path, bars: ProgressBars
) -> None:
    """Copies shards, each of which is read back before it gets its name."""
    done, total = 0, sum(shards.values())
    bars.show_images('copying', done, total)
    for address, data in bucket.read(_in(place, list(shards))):
        name = address.rpartition('/')[2]
        with atomic_files.replace(folder / name) as partial:
            partial.write_bytes(data)
            _check_records(partial, shards[name], f'{bucket.address}/{address}')
        done += shards[name]
        bars.show_images('copying', done, total)


def _check_records(path: Path, expected: int, origin: str) -> None:
    """Reads all records of a shard, so that ArrayRecord compares them with its checksums."""
    try:
        reader: Any = array_record_module.ArrayRecordReader(str(path))
        records = reader.num_records()
        for start in range(0, records, _RECORDS_AT_ONCE):
            reader.read(start, min(start + _RECORDS_AT_ONCE, records))
        reader.close()
        problem = '' if records == expected else f'it has {records:,} records, not {expected:,}'
    except (RuntimeError, ValueError, IndexError) as error:
        problem = first_line(error)[:120]
    if problem:
        raise UserError(f'{origin} is damaged ({problem}): copy the data set to the bucket again')


def _in(place: str, names: list[str]) -> list[str]:
    return [f'{place}/{name}' for name in names]
