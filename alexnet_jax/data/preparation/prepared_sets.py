"""Prepared data sets on the disk (§2): what each was made from, and how a new one takes its place.

A data set is replaced only by a complete one. The old folder is moved aside, the new one gets its
name, and the old one is removed; after a kill between two of these steps, the next preparation
calls `restore`.
"""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

SOURCE = 'prepared.json'  # in the data set's folder: what it was prepared from
PROGRAM = 'python -m alexnet_jax.prepare'
# What the name of a data set tells of its storage: see Storage.name.
_STORAGE = (
    r'_(?P<size>\d+)(?P<raw>_raw)?(_q(?P<quality>\d+))?(_(?P<filter>[a-z]+?))??'
    r'(_(?P<background>black))?'
)
_OF_FOLDER = re.compile(rf'folder_.*_[0-9a-f]{{8}}{_STORAGE}')
_OF_SUBSET = re.compile(rf'imagenet2012_\d+_[0-9a-f]{{8}}({_STORAGE})?')
_OF_TARS = re.compile(rf'.+?({_STORAGE})?')


def read_source(folder: Path) -> dict[str, Any]:
    """Returns what a data set was prepared from, as writing.py has recorded it.

    Returns:
      The contents of prepared.json; empty if there is none, or none that can be read.
    """
    try:
        source = json.loads((folder / SOURCE).read_text())
    except (OSError, ValueError):
        return {}
    required = ('images', 'fingerprint', 'skipped', 'storage')
    complete = isinstance(source, dict) and all(key in source for key in required)
    return source if complete else {}


def lacks_source(folder: Path) -> bool:
    """Checks whether a data set was written by writing.py and the record of its source is lost."""
    written_here = (folder / SOURCE).exists() or _OF_FOLDER.fullmatch(folder.parent.name)
    return bool(written_here) and not read_source(folder)


def replace(final: Path, complete: Path) -> None:
    """Moves a complete data set to its final place, and removes the one that was there.

    Args:
      final: the folder of the data set.
      complete: the folder of the new one, on the same file system.
    """
    if final.exists():
        final.rename(_aside(final))
    complete.rename(final)
    shutil.rmtree(_aside(final), ignore_errors=True)


def restore(final: Path) -> None:
    """Moves a data set back that a killed `replace` left aside, or removes it if replaced."""
    aside = _aside(final)
    if aside.exists() and not final.exists():
        aside.rename(final)
    shutil.rmtree(aside, ignore_errors=True)


def _aside(final: Path) -> Path:
    return final.with_name(f'.{final.name}.replaced')


def find_prepared(data_dir: Path, name: str) -> Path | None:
    """Returns the folder of a data set that writing.py has written; None if there is none."""
    if not name.replace('_', '').isalnum():
        return None
    folders = [folder for folder in data_dir.glob(f'{name}/*') if read_source(folder)]
    return max(folders, default=None)


def remedy(folder: Path) -> str:
    """Returns the advice about a damaged data set, in the imperative, for messages."""
    return f'prepare the data set again: {command_again(folder)}'


def command_again(folder: Path) -> str:
    """Returns the command that prepares a data set anew and replaces it.

    Args:
      folder: the folder of the data set: DATA_DIR/NAME/VERSION or DATA_DIR/NAME/CONFIG/VERSION.
    """
    name, root = folder.parent.name, folder.parent.parent
    source = read_source(folder)
    if source and not source.get('source'):  # prepared before sources were recorded
        return command_of_images({'tars': 'DIR'}, source['storage'], root)
    if lacks_source(folder):
        match, asked = _OF_FOLDER.fullmatch(name), {'folder': 'DIR'}
        if not match:
            match, asked = _OF_SUBSET.fullmatch(name), {'imagenet': 'PATH', 'synsets': 'FILE'}
        if not match:
            match, asked = _OF_TARS.fullmatch(name), {'tars': 'DIR'}
        storage = {key: value for key, value in match.groupdict().items() if value} if match else {}
        return command_of_images(asked, storage, root)
    if not source and _has_config(folder):
        name, root = f'{root.name}/{name}', root.parent
    return f'{PROGRAM} --again --name={shlex.quote(name)} --data_dir={shlex.quote(str(root))}'


def command_of_images(source: dict[str, str], storage: dict[str, Any], data_dir: Path) -> str:
    """Returns the command that prepares images anew and replaces the data set of them.

    Args:
      source: the flag that selects the images, and its value.
      storage: how the images are stored, as a dictionary.
      data_dir: where TFDS keeps data sets.
    """
    values = dict(source)
    if 'tfrecord' not in source:  # which is converted as it is
        values['size'] = str(storage.get('size') or 'original')
    if storage.get('raw'):
        values['storage'] = 'raw'
    defaults = {'quality': 90, 'filter': 'bicubic', 'background': 'white'}
    for flag, default in defaults.items():
        if storage.get(flag, default) != default:
            values[flag] = str(storage[flag])
    values['data_dir'] = str(data_dir)
    flags = ' '.join(f'--{flag}={shlex.quote(value)}' for flag, value in values.items())
    return f'{PROGRAM} --again {flags}'


def read_info(folder: Path) -> dict[str, Any]:
    """Returns what TFDS says about a data set; empty if that cannot be read."""
    try:
        info = json.loads((folder / 'dataset_info.json').read_text())
    except (OSError, ValueError):
        return {}
    return info if isinstance(info, dict) else {}


def _has_config(folder: Path) -> bool:
    """Checks whether a data set is one of several configs of TFDS, each with a folder."""
    return folder.parent.name == read_info(folder).get('configName')
