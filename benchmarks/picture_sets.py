"""Three sets of pictures that no recipe was made for, from Debian's packages (§2).

fashion28: grey pictures of clothes, 28 pixels, 1,000 a class. clipart: drawings on transparent
ground, ten classes of 91 to 1,853 pictures. photos: pieces of different sizes from photographs; the
class is the photograph, and no piece for validation overlaps one for training.
"""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_jax.runtime.user_errors import UserError

PACKAGES = ('dataset-fashion-mnist', 'openclipart-png', 'mate-backgrounds')

_FASHION = Path('/usr/share/datasets/fashion-mnist')
_CLIP_ART = Path('/usr/share/openclipart/png')
_PHOTOGRAPHS = Path('/usr/share/backgrounds/mate/nature')

_CLOTHES = ('t-shirt', 'trouser', 'pullover', 'dress', 'coat', 'sandal', 'shirt', 'sneaker')
_CLOTHES = (*_CLOTHES, 'bag', 'ankle boot')
_DRAWINGS = (  # the kinds of which there are the most
    'computer/icons',
    'shapes/stars',
    'signs_and_symbols/flags',
    'recreation/games',
    'signs_and_symbols/map_symbols',
    'animals/mammals',
    'transportation/aiga-symbols',
    'special/gradients',
    'shapes/arrows',
    'food/fruit',
)
_PIECES, _TILES = 120, 4  # pieces of a photograph; rows and columns of tiles


def make_fashion(folder: Path) -> None:
    """Writes the 10,000 test pictures of Fashion-MNIST, a folder for each class."""
    pixels_NHW = _read_idx(_FASHION / 't10k-images-idx3-ubyte.gz', 16).reshape(-1, 28, 28)
    labels = _read_idx(_FASHION / 't10k-labels-idx1-ubyte.gz', 8)
    for number, (pixels_HW, label) in enumerate(zip(pixels_NHW, labels, strict=True)):
        _save(Image.fromarray(pixels_HW), folder / _CLOTHES[label] / f'{number:05d}.png')


def _read_idx(file: Path, header: int) -> np.ndarray:
    with gzip.open(file) as stream:
        return np.frombuffer(stream.read(), np.uint8, offset=header)


def make_clip_art(folder: Path) -> None:
    """Makes links to the pictures of ten kinds of Openclipart."""
    for kind in _DRAWINGS:
        for file in sorted((_CLIP_ART / kind).rglob('*.png')):
            name = '_'.join(file.relative_to(_CLIP_ART / kind).parts)
            link = folder / Path(kind).name / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)


def make_photographs(folder: Path, source: Path = _PHOTOGRAPHS) -> None:
    """Writes pieces of photographs, 96 pixels to a tile across, for training and validation.

    Each photograph is divided into tiles. One tile of each row is for validation.
    """
    rng = np.random.default_rng(0)
    for photograph in sorted(source.glob('*.jpg')):
        image = Image.open(photograph).convert('RGB')
        for number in range(_PIECES):
            row, column = rng.integers(_TILES, size=2)
            part = 'val' if column == (2 * row + 1) % _TILES else 'train'
            piece = _piece(rng, image, int(row), int(column))
            _save(piece, folder / part / photograph.stem / f'{number:03d}.jpg')


def _piece(rng: np.random.Generator, image: Image.Image, row: int, column: int) -> Image.Image:
    """Returns a random rectangle within a tile."""
    width, height = image.width // _TILES, image.height // _TILES
    w, h = (int(rng.integers(96, side + 1)) for side in (width, height))
    left = column * width + int(rng.integers(width - w + 1))
    top = row * height + int(rng.integers(height - h + 1))
    return image.crop((left, top, left + w, top + h))


def _save(image: Image.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)


def make(name: str, folder: Path) -> Path:
    """Writes one of the SETS below a folder unless it is there; returns its own folder.

    Raises:
      UserError: its package is not installed.
    """
    source, write = SETS[name]
    if not (folder / name).exists():
        if not source.is_dir():
            raise UserError(f'{source} is missing: apt-get install {" ".join(PACKAGES)}')
        write(folder / f'.{name}')
        (folder / f'.{name}').rename(folder / name)
    return folder / name


# Where the pictures of each set come from, and what writes it.
SETS: dict[str, tuple[Path, Callable[[Path], None]]] = {
    'fashion28': (_FASHION, make_fashion),
    'clipart': (_CLIP_ART, make_clip_art),
    'photos': (_PHOTOGRAPHS, make_photographs),
}
