"""Decodes, scales and encodes an image (§2): from a file to a square of pixels, and to a JPEG.

JPEGs are decoded by libjpeg-turbo (simplejpeg). All other formats, and files that libjpeg-turbo
refuses, are decoded by Pillow, with bit-identical pixels for JPEGs that both decode
(benchmarks/input.py measures the speeds).
"""

import io
import warnings

import kornia_rs
import numpy as np
import simplejpeg
from PIL import Image, ImageOps

# Filters for reducing an image. All but 'nearest' average over the pixels that become one.
FILTERS = {
    'area': Image.Resampling.BOX,
    'bilinear': Image.Resampling.BILINEAR,
    'bicubic': Image.Resampling.BICUBIC,
    'lanczos': Image.Resampling.LANCZOS,
    'nearest': Image.Resampling.NEAREST,
}
_BY_KORNIA = ('bicubic', 'lanczos', 'nearest')  # with the same result, about twice as fast

FORMATS = ('JPEG', 'PNG', 'BMP', 'GIF', 'WEBP', 'TIFF')
# Phones make photographs of 200 million pixels, and drawings can be larger than Pillow's limit of
# 89 million. Larger images than this one are taken for an attack on the memory.
MAX_PIXELS = 1 << 28
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.filterwarnings('error', category=Image.DecompressionBombWarning)
warnings.filterwarnings('ignore', category=UserWarning, module='PIL')  # broken metadata

_PLAIN = ('YCbCr', 'Gray', 'RGB')  # libjpeg-turbo converts these to RGB itself, unlike CMYK
_EXIF_ORIENTATION = 0x0112


class BadImage(Exception):
    """An image that cannot be decoded; the message says why in a few words.

    Nothing else is a BadImage: neither a file that cannot be read now nor a lack of memory.
    """


def decode(
    data: bytes, least: int = 0, upright: bool = False, background: str = 'white'
) -> np.ndarray:
    """Decodes an image file.

    Grey images, images with a palette and CMYK become RGB. Transparent pixels are composited on a
    background, as browsers do: drawings are often black on nothing, and would vanish on black.

    Args:
      data: the bytes of the file.
      least: if above 0, a JPEG may be decoded at a half, a quarter or an eighth of its size, as
        long as its short side keeps at least this many pixels. The decoder then averages in the
        frequency domain, which saves time.
      upright: whether to rotate the image as its EXIF orientation says. The 2012 code and its
        successors do not.
      background: the colour behind transparent pixels, 'white' or 'black'. An image without
        transparency is the same with both.

    Returns:
      (rows, columns, 3) uint8.

    Raises:
      BadImage: it cannot be decoded completely, or has more than MAX_PIXELS pixels.
      MemoryError: there is not enough memory for it.
    """
    if data[:2] == b'\xff\xd8' and not (upright and _turned(data)):
        try:
            height, width, colours = _header(data)
            if height * width > MAX_PIXELS:
                raise BadImage(f'has {width} x {height} pixels, more than {MAX_PIXELS:,}')
            if colours in _PLAIN:
                by = next(n for n in (8, 4, 2, 1) if n == 1 or min(height, width) >= n * least > 0)
                return simplejpeg.decode_jpeg(
                    data, 'RGB', min_height=-(-height // by), min_width=-(-width // by)
                )
        except ValueError:
            pass  # Pillow may still decode it, and has clearer messages
    return _decode_by_pillow(data, upright, background)


def decode_into(data: bytes, out_HWC: np.ndarray) -> bool:
    """Decodes a JPEG of the same size as `out_HWC`, (rows, columns, 3) uint8, straight into it.

    Returns:
      False if the data are anything else; `out_HWC` is then undefined.
    """
    if data[:2] != b'\xff\xd8':
        return False
    try:
        height, width, colours = _header(data)
        if (height, width) != out_HWC.shape[:2] or colours not in _PLAIN:
            return False
        simplejpeg.decode_jpeg(data, 'RGB', buffer=out_HWC)
    except ValueError:
        return False
    return True


def _header(data: bytes) -> tuple[int, int, str]:
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    return int(height), int(width), str(colours)


def is_plain_jpeg(data: bytes) -> bool:
    """Checks whether this is a JPEG in colour or grey, which every decoder supports."""
    try:
        return data[:2] == b'\xff\xd8' and _header(data)[2] in _PLAIN
    except ValueError:
        return False


def _turned(data: bytes) -> bool:
    try:
        return Image.open(io.BytesIO(data)).getexif().get(_EXIF_ORIENTATION, 1) != 1
    except MemoryError:
        raise
    except Exception:  # broken metadata are ignored
        return False


def convert(picture: Image.Image, upright: bool = False, background: str = 'white') -> np.ndarray:
    """Converts an image of Pillow to RGB; see `decode`.

    Returns:
      (rows, columns, 3) uint8.

    Raises:
      BadImage: it cannot be decoded completely, or its pixels have no range that is known.
      MemoryError: there is not enough memory for it.
    """
    try:
        picture.load()
        if upright:
            picture = _turn(picture)
        if picture.mode in ('I', 'F'):
            raise BadImage(f'has pixels of an unknown range (mode {picture.mode})')
        if picture.mode.startswith('I;16'):
            picture = _with_eight_bits(picture)
        if picture.has_transparency_data:
            picture = picture.convert('RGBA')
            behind = Image.new('RGBA', picture.size, background)
            picture = Image.alpha_composite(behind, picture)
        return np.asarray(picture.convert('RGB'))
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # Pillow raises many kinds of errors for damaged files
        raise _pillow_error(error) from error


def _decode_by_pillow(data: bytes, upright: bool, background: str) -> np.ndarray:
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        raise BadImage(f'is not an image ({len(data):,} bytes)') from error
    except MemoryError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadImage(f'has more than {MAX_PIXELS:,} pixels') from error
    except Exception as error:
        raise _pillow_error(error) from error
    return convert(picture, upright, background)


def _pillow_error(error: Exception) -> Exception:
    """Returns the BadImage or the MemoryError for an error that Pillow raised."""
    if str(error).startswith('out of memory'):
        return MemoryError(str(error))
    return BadImage(' '.join(str(error).split()) or type(error).__name__)


def _turn(picture: Image.Image) -> Image.Image:
    """Returns an image rotated as its EXIF orientation says; broken metadata are ignored."""
    try:
        return ImageOps.exif_transpose(picture)
    except MemoryError:
        raise
    except Exception:  # the pixels have been decoded already
        return picture


def _with_eight_bits(picture: Image.Image) -> Image.Image:
    """Converts an image of 16 bits; the one grey level that may be transparent becomes alpha."""
    levels = np.asarray(picture)
    grey = Image.fromarray((levels // 257).astype(np.uint8))
    transparent = picture.info.get('transparency')
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8)))
    return grey


def central_square(image_HWC: np.ndarray, size: int, filter: str) -> np.ndarray:
    """Crops the central square of an image and scales it to `size` x `size` pixels (§2).

    The paper scales the short side first and then crops. Cropping first scales fewer pixels, and
    only the outermost ones differ.

    Args:
      image_HWC: (rows, columns, 3) uint8.
      size: pixels across the result.
      filter: one of FILTERS. A smaller image is enlarged with 'bicubic', as in the authors' later
        code (cuda-convnet2: pyext.cpp:109), unless the filter is 'nearest'.

    Returns:
      (size, size, 3) uint8.
    """
    rows, columns = image_HWC.shape[:2]
    short = min(rows, columns)
    top, left = (rows - short) // 2, (columns - short) // 2
    square = image_HWC[top : top + short, left : left + short]
    if short == size:
        return square
    if short < size and filter != 'nearest':
        filter = 'bicubic'
    if filter in _BY_KORNIA:
        square = np.ascontiguousarray(square)
        return np.asarray(kornia_rs.imgproc.resize(square, (size, size), filter, antialias=True))
    return np.asarray(Image.fromarray(square).resize((size, size), FILTERS[filter]))


def square(
    data: bytes, size: int, filter: str, upright: bool = False, background: str = 'white'
) -> np.ndarray:
    """Decodes an image file to its central square; see `decode` and `central_square`.

    Returns:
      (size, size, 3) uint8.

    Raises:
      BadImage: it cannot be decoded.
    """
    least = 0 if filter == 'nearest' else size + size // 2
    return central_square(decode(data, least, upright, background), size, filter)


def encode(image_HWC: np.ndarray, quality: int) -> bytes:
    """Encodes (rows, columns, 3) uint8 as a JPEG.

    Below a quality of 100, colour has half the resolution, as is usual.
    """
    subsampling = '420' if quality < 100 else '444'
    return simplejpeg.encode_jpeg(np.ascontiguousarray(image_HWC), quality, 'RGB', subsampling)
