"""Converts a TFDS data set from TFRecord to ArrayRecord, without TensorFlow (§2).

TFDS writes the same bytes for an image, a serialized Example, into files of either format. So the
records are copied: in their order, shard by shard, with the descriptions of the data set. Source of
the format: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details. Each
record has its length before it, and a checksum after each of the two.
"""

import concurrent.futures
import dataclasses
import hashlib
import importlib
import json
import os
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import tensorflow_datasets as tfds
from array_record.python import array_record_module

from alexnet_jax.data.preparation import prepared_sets, tfds_sets
from alexnet_jax.data.preparation.disk_space import check_space
from alexnet_jax.data.records import locate_features
from alexnet_jax.runtime import atomic_files, cpu_devices, locks
from alexnet_jax.runtime.printing import printable
from alexnet_jax.runtime.progress import ProgressBars
from alexnet_jax.runtime.signals import raise_if_stopped
from alexnet_jax.runtime.user_errors import UserError, explain_os_errors, first_line

_INFO = 'dataset_info.json'
_FILES = 'files.json'  # in the unfinished folder: which files it is converted from
_HEADER = struct.Struct('<QI')  # length of a record, and the checksum of these eight bytes
_FOOTER = struct.Struct('<I')
_DAMAGED = 'it is damaged: copy it here again, or prepare the data set again'


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file to convert.

    Attributes:
      source: the TFRecord file.
      name: the name of the ArrayRecord file.
      records: number of records, according to the description of the data set.
    """

    source: Path
    name: str
    records: int


def convert(path: Path, data_dir: Path, bars: ProgressBars, again: bool = False) -> Path:
    """Converts a data set, or resumes a conversion that was stopped.

    Args:
      path: the folder of the data set, DATA_DIR/NAME/VERSION, or one above it that has no other.
      data_dir: where the converted data set is written.
      bars: show progress.
      again: whether it is converted even if it is there, and replaced when complete.

    Returns:
      The folder of the converted data set.

    Raises:
      Stopped: a signal asked this process to stop; the same call resumes.
      UserError: there is no such data set of images and labels, a file is missing or damaged, or
        the data set cannot be written.
    """
    checksum = _import_checksum()
    folder = _find(path)
    try:
        builder = tfds.builder_from_directory(str(folder))
    except Exception as error:  # of many kinds, for damaged files
        raise UserError(f'{folder} cannot be opened: {first_line(error)[:200]}') from error
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        raise UserError(
            f'{folder} is in the format {builder.info.file_format.value}, not tfrecord: train on '
            'it with --config.dataset.data_dir, if that is array_record'
        )
    tfds_sets.check_images(builder)
    shards = list(_list_shards(builder))
    final = data_dir.joinpath(*builder.info.full_name.split('/'))
    if final.resolve() == folder.resolve():
        raise UserError(
            f'{final} has the files in TFRecord: choose another --data_dir for the converted ones'
        )
    fingerprint = _fingerprint(shards)
    with locks.acquire(final.parent / '.lock', 'choose another data_dir', wait=True):
        prepared_sets.restore(final)
        if final.exists() and not again:
            if prepared_sets.read_source(final).get('fingerprint') == fingerprint:
                bars.print_line(f'already prepared in {final}')
                return final
            raise UserError(
                f'{final} was prepared from something else: choose another data_dir to keep both, '
                'or replace it with --again'
            )
        unfinished = final.with_name(f'.{final.name}.incomplete')
        with explain_os_errors(f'write {printable(str(unfinished))}'):
            _start(unfinished, shards)
            _check_disk(shards, unfinished)
            _write_shards(shards, unfinished, checksum, bars)
            _write_metadata(builder, folder, unfinished, fingerprint)
            prepared_sets.replace(final, unfinished)
    return final


def _import_checksum() -> Callable[[bytes], int]:
    try:
        return importlib.import_module('google_crc32c').value
    except ModuleNotFoundError as error:
        raise UserError(
            'TFRecord files have checksums that need the package google-crc32c: pip install '
            'google-crc32c'
        ) from error


def _find(path: Path) -> Path:
    """Returns the folder of the one data set in this folder."""
    for depth in range(4):  # DATA_DIR/NAME/CONFIG/VERSION
        files = sorted(path.glob('/'.join(['*'] * depth + [_INFO])))
        folders = [file.parent for file in files if not file.parent.name.startswith('.')]
        if len(folders) > 1:
            names = ', '.join(str(folder.relative_to(path)) for folder in folders[:8])
            raise UserError(
                f'{path} has {len(folders)} data sets ({names}): pass the folder of one of them'
            )
        if folders:
            return folders[0]
    raise UserError(
        f'{path} has no data set of TFDS: pass the folder that has its {_INFO}, NAME/VERSION'
    )


def _list_shards(builder: tfds.core.DatasetBuilder) -> Iterator[Shard]:
    """Yields the files of a data set.

    Raises:
      UserError: files are missing.
    """
    missing = []
    for split in builder.info.splits.values():
        for path, records in zip(split.filepaths, split.shard_lengths, strict=True):
            source = Path(os.fspath(path))
            name = tfds.core.file_adapters.convert_path_to_file_format(
                source, tfds_sets.FORMAT
            ).name
            if not source.exists():
                missing.append(source.name)
            yield Shard(source, name, records)
    if missing:
        more = f' and {len(missing) - 1:,} more files are' if len(missing) > 1 else ' is'
        raise UserError(
            f'{missing[0]}{more} missing in {builder.data_dir}: copy the data set here again'
        )


def _fingerprint(shards: list[Shard]) -> str:
    """Returns a hash that changes with the files, but not when they are copied."""
    values = [(shard.name, shard.records, shard.source.stat().st_size) for shard in shards]
    return hashlib.blake2b(json.dumps(values).encode(), digest_size=16).hexdigest()


def _start(unfinished: Path, shards: list[Shard]) -> None:
    """Makes the folder, and removes what was converted there from other files."""
    record = unfinished / _FILES
    times = [shard.source.stat().st_mtime_ns for shard in shards]
    text = json.dumps([_fingerprint(shards), times])
    if unfinished.exists() and (not record.exists() or record.read_text() != text):
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True, exist_ok=True)
    with atomic_files.replace(record) as partial:
        partial.write_text(text)


def _check_disk(shards: list[Shard], unfinished: Path) -> None:
    missing = [shard for shard in shards if not (unfinished / shard.name).exists()]
    need = sum(shard.source.stat().st_size for shard in missing)
    check_space(unfinished.parent, need, 'choose another data_dir')


def _write_shards(
    shards: list[Shard], unfinished: Path, checksum: Callable[[bytes], int], bars: ProgressBars
) -> None:
    """Converts the shards that are missing, in one thread per core."""
    missing = [shard for shard in shards if not (unfinished / shard.name).exists()]
    total = sum(shard.records for shard in shards)
    done = total - sum(shard.records for shard in missing)
    if done:
        bars.print_line(f'resuming after {done:,} of {total:,} images')
    counts, stop = [0] * len(missing), threading.Event()

    def write(index: int) -> None:
        shard = missing[index]
        with atomic_files.replace(unfinished / shard.name) as partial:
            for _ in _copy_records(shard, partial, checksum):
                counts[index] += 1
                if stop.is_set():
                    raise UserError('stopped')

    with concurrent.futures.ThreadPoolExecutor(cpu_devices.processor_count()) as executor:
        pending = {executor.submit(write, index) for index in range(len(missing))}
        try:
            while pending:
                complete, pending = concurrent.futures.wait(
                    pending, 0.5, concurrent.futures.FIRST_COMPLETED
                )
                bars.show_images('converting', done + sum(counts), total)
                raise_if_stopped()
                for future in complete:
                    future.result()
        finally:
            stop.set()
            executor.shutdown(cancel_futures=True)


def _copy_records(shard: Shard, path: Path, checksum: Callable[[bytes], int]) -> Iterator[None]:
    """Copies the records of a file; yields after each."""
    number = 0
    try:
        # Not compressed: JPEGs do not shrink.
        writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1,uncompressed')
        with explain_os_errors(f'read {shard.source}'), shard.source.open('rb') as file:
            for record in _records(file, shard.source, checksum):
                if not number:
                    _check_example(record, shard.source)
                writer.write(record)
                number += 1
                yield
        writer.close()
    except (RuntimeError, ValueError) as error:
        raise UserError(f'cannot write {path.parent}: {first_line(error)}') from error
    if number != shard.records:
        raise UserError(
            f'{shard.source} has {number:,} records, and {_INFO} says {shard.records:,}: {_DAMAGED}'
        )


def _records(file: IO[bytes], source: Path, checksum: Callable[[bytes], int]) -> Iterator[bytes]:
    """Yields the records of a TFRecord file.

    Raises:
      UserError: the file ends within a record, or a checksum is wrong.
    """
    size, position, number = os.fstat(file.fileno()).st_size, 0, 0
    while header := file.read(_HEADER.size):
        problem, record = f'ends within record {number}', b''
        if len(header) == _HEADER.size:
            length, expected = _HEADER.unpack(header)
            if _mask(checksum(header[:8])) != expected:
                problem = f'has a wrong checksum of the length of record {number}'
            elif length + _FOOTER.size <= size - position - _HEADER.size:
                record, footer = file.read(length), file.read(_FOOTER.size)
                if _FOOTER.pack(_mask(checksum(record))) == footer:
                    yield record
                    problem, position = '', position + _HEADER.size + length + _FOOTER.size
                else:
                    problem = f'has a wrong checksum of record {number}'
        if problem:
            raise UserError(f'{source} {problem}: {_DAMAGED}')
        number += 1


def _mask(checksum: int) -> int:
    """Returns a CRC-32C as TFRecord stores it, because it may be part of the data of another."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _check_example(record: bytes, source: Path) -> None:
    """Refuses a record that is not an Example with an image and a label."""
    try:
        features = locate_features(record, (b'image', b'label'))
    except (IndexError, ValueError):
        features = {}
    if len(features) < 2:
        raise UserError(
            f'the first record of {source} is not an Example with an image and a label: only data '
            'sets that TFDS wrote can be converted'
        )


def _write_metadata(
    builder: tfds.core.DatasetBuilder, folder: Path, unfinished: Path, fingerprint: str
) -> None:
    """Copies what describes the data set, and records what it was converted from."""
    for file in folder.iterdir():
        if file.is_file() and '.tfrecord' not in file.name and file.name[0] != '.':
            shutil.copyfile(file, unfinished / file.name)
    info: dict[str, Any] = json.loads((folder / _INFO).read_text())
    atomic_files.replace_json(unfinished / _INFO, info | {'fileFormat': tfds_sets.FORMAT.value})
    images = {name: split.num_examples for name, split in builder.info.splits.items()}
    names = None  # numbers, of which TFDS writes no file
    if (folder / 'label.labels.txt').exists() and builder.info.features:
        names = tfds_sets.hash_names(builder.info.features['label'].names)
    source = {
        'images': images,
        'skipped': [],
        'fingerprint': fingerprint,
        'storage': {},
        'source': {'tfrecord': str(folder.absolute())},
        'class_names': names,
    }
    atomic_files.replace_json(unfinished / prepared_sets.SOURCE, source)
    (unfinished / _FILES).unlink()
