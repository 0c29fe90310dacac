"""Recognizes in which form ImageNet lies in a folder or file (§2)."""

from collections.abc import Callable, Sequence
from pathlib import Path

from alexnet_jax.data.preparation.catalogue import Catalogue, Report, Stream
from alexnet_jax.data.preparation.layouts import image_trees, imagenet_tars, webdataset_files
from alexnet_jax.data.preparation.layouts.collection import Collector, choose_classes
from alexnet_jax.data.preparation.layouts.image_names import SYNSET
from alexnet_jax.runtime.printing import list_names, printable
from alexnet_jax.runtime.user_errors import UserError, explain_os_errors

ARCHIVES = ('.zip', '.tar', *image_trees.COMPRESSED)
_OFFICIAL_TARS = ('ILSVRC2012_img_*.tar', 'ILSVRC2010_images_*.tar', 'n[0-9]*.tar')

_LONGEST_LIST = 1 << 20  # bytes in a list of synsets; an archive given by mistake has more

_Layout = tuple[str, Callable[[], Collector], Stream | None]


def list_images(
    path: Path, report: Report, synsets: Sequence[str] = (), partial: bool = False
) -> Catalogue:
    """Lists the images of ImageNet in a folder or file, whatever its layout.

    Args:
      path: the folder or file.
      report: receives progress.
      synsets: the classes of a subset, in the order of their labels; empty for all.
      partial: whether images may be missing.

    Raises:
      Stopped: a signal asked this process to stop.
      UserError: no layout is recognized, the images cannot be read or their classes not be told.
    """
    if not path.exists():
        raise UserError(f'{path} does not exist: pass --imagenet=PATH with a folder or an archive')
    if path.is_dir() and any(next(path.glob(pattern), None) for pattern in _OFFICIAL_TARS):
        return list_tars(path, report, synsets)
    kind, collect, stream = _recognize(path, report)
    catalogue = collect().catalogue(kind, synsets, partial)
    catalogue.stream = stream
    if catalogue.missing:
        catalogue.notes.append(f'missing: {list_names(catalogue.missing)}')
    if catalogue.empty_classes:
        catalogue.notes.append(f'no training images of {list_names(catalogue.empty_classes)}')
    catalogue.source = {'imagenet': str(path.resolve())}
    catalogue.sort()
    return catalogue


def list_tars(path: Path, report: Report, synsets: Sequence[str]) -> Catalogue:
    """Lists the images in a folder of tars; of these classes alone, where there are any.

    Raises:
      Stopped: a signal asked this process to stop.
      UserError: the folder has no tars of ImageNet, a tar is damaged or lacks a class.
    """
    catalogue = imagenet_tars.list_images(path, report)
    return choose_classes(catalogue, synsets) if synsets else catalogue


def read_synsets(path: Path) -> list[str]:
    """Reads a list of classes: a WordNet id at the beginning of each line, in the order of labels.

    Raises:
      UserError: the file cannot be read, or a line does not begin with a class of ILSVRC-2012.
    """
    with explain_os_errors(f'read {path}'), path.open('rb') as file:
        data = file.read(_LONGEST_LIST + 1)
    if len(data) > _LONGEST_LIST or b'\0' in data:
        raise UserError(
            f'--synsets={path} is not a text file in UTF-8 with a WordNet id in each line, such as '
            'n01440764'
        )
    lines = data.decode('utf-8-sig', 'replace').splitlines()  # editors may write a mark before it
    classes = set(imagenet_tars.labels_2012())
    synsets = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith('#'):
            continue
        if words[0] not in classes:
            word = printable(words[0][:40])
            raise UserError(
                f'--synsets={path}: line {number} begins with {word}, which is not '
                'a class of ILSVRC-2012: write a WordNet id, such as n01440764, in each line'
            )
        synsets.append(words[0])
    if len(synsets) < 2 or len(set(synsets)) < len(synsets):
        twice = [synset for synset in dict.fromkeys(synsets) if synsets.count(synset) > 1]
        problem = f'has {list_names(twice)} twice' if twice else 'has fewer than two classes'
        raise UserError(f'--synsets={path} {problem}')
    return synsets


def _recognize(path: Path, report: Report) -> _Layout:
    """Returns what a path has, how to collect its images, and the stream that reads them."""
    if not path.is_dir():
        return _recognize_file(path, report)
    from alexnet_jax.data.preparation.layouts import parquet_files  # pyarrow takes a while

    if files := parquet_files.find_files(path):
        return (
            f'{len(files)} parquet files',
            lambda: parquet_files.collect(path, files, report),
            parquet_files.read_images,
        )
    if root := image_trees.find_root(path):
        kaggle = ' of Kaggle' if root.name == 'CLS-LOC' else ''
        return f'folders{kaggle}', lambda: image_trees.collect_folder(root, report), None
    if files := webdataset_files.find_files(path):
        return (
            f'{len(files)} shards of WebDataset',
            lambda: webdataset_files.collect(path, files, report),
            None,
        )
    for place in (path, path / 'data'):
        if files := sorted(place.glob('*_images*.tar.gz')):
            return (
                f'{len(files)} compressed tars of the Hub',
                lambda: image_trees.collect_compressed(path, files, report),
                image_trees.read_images,
            )
    archives = [file for file in sorted(path.iterdir()) if file.name.lower().endswith(ARCHIVES)]
    if len(archives) == 1:
        return _recognize_file(archives[0], report)
    advice = (
        'pass the folder that has train and val, or the archive; for your own images, --folder=DIR'
    )
    if any(SYNSET.fullmatch(file.name) for file in path.iterdir() if file.is_dir()):
        advice = f'pass the folder that has it as train, {path.absolute().parent}'
    elif archives:
        advice = f'choose one of its archives: {list_names([file.name for file in archives])}'
    raise UserError(
        f'{path} has no layout of ImageNet that is known (tars of image-net.org, folders train and '
        f"val, Kaggle's archive, parquet files, shards of WebDataset): {advice}"
    )


def _recognize_file(path: Path, report: Report) -> _Layout:
    name = path.name.lower()
    if not name.endswith(ARCHIVES):
        raise UserError(
            f'{path} is neither a folder nor an archive ({", ".join(ARCHIVES)}): pass the folder '
            'that has it'
        )
    if name.endswith('.tar') and webdataset_files.is_shard(path):
        raise UserError(f'{path} is a shard of WebDataset: pass the folder that has all shards')
    if name.startswith('ilsvrc20'):
        raise UserError(f'{path} is one of the tars of image-net.org: pass the folder of them')
    compressed = name.endswith(image_trees.COMPRESSED) or image_trees.has_compressed_tar(path)
    return (
        'a compressed tar' if compressed else f'a {path.suffix[1:]} archive',
        lambda: image_trees.collect_archive(path, report),
        image_trees.read_images if compressed else None,
    )
