"""Pictures of every kind become the images of a net; what training reads is in test_images.py."""

import io
import os
import threading

import numpy as np
import pytest
from PIL import Image

import nets
from alexnet_jax.data.images import BadImage
from alexnet_jax.evaluation import pictures

DATASET = nets.small(dataset__image_size=16, augmentation__crop=16).dataset
PIXELS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
MODES = ('RGB', 'L', 'RGBA', 'LA')
GREY = np.repeat(PIXELS[..., :1], 3, axis=2)


def encode(picture, format, **options):
    data = io.BytesIO()
    picture.save(data, format, **options)
    return data.getvalue()


def with_alpha(picture):
    picture.putalpha(255)
    return picture


@pytest.mark.parametrize(
    ('format', 'mode'),
    [
        *((format, mode) for format in ('PNG', 'TIFF', 'WEBP') for mode in MODES),
        *(('BMP', mode) for mode in MODES[:2]),  # it has no alpha that is in use
    ],
)
def test_formats_and_modes_without_losses(format, mode):
    picture = Image.fromarray(PIXELS if mode.startswith('RGB') else PIXELS[..., 0])
    picture = with_alpha(picture) if mode.endswith('A') else picture
    options = {'lossless': True} if format == 'WEBP' else {}
    expected = PIXELS if mode.startswith('RGB') else GREY
    for image in (encode(picture, format, **options), picture):
        np.testing.assert_array_equal(pictures.read(image, DATASET), expected)


@pytest.mark.parametrize('order', ['<u2', '>u2'])
def test_sixteen_bits_in_either_byte_order(order):
    """257 levels of 16 bits are one of 8 bits. TIFF has both orders; PNG is always big-endian."""
    picture = Image.fromarray((GREY[..., 0].astype(np.uint16) * 257).astype(order))
    for image in (encode(picture, 'TIFF'), encode(picture, 'PNG'), picture):
        np.testing.assert_array_equal(pictures.read(image, DATASET), GREY)


def test_a_palette_cmyk_and_a_gif():
    colours = Image.fromarray(PIXELS // 128 * 255)
    few = colours.quantize(8, dither=Image.Dither.NONE)
    expected = np.asarray(few.convert('RGB'))
    for format in ('PNG', 'GIF', 'BMP', 'TIFF'):
        np.testing.assert_array_equal(pictures.read(encode(few, format), DATASET), expected)
    flat = Image.new('RGB', (16, 16), (200, 40, 90))
    image = pictures.read(encode(flat.convert('CMYK'), 'JPEG', quality=100), DATASET)
    assert np.abs(image.astype(int) - np.asarray(flat)).max() <= 3


def test_transparency_has_the_background_of_the_run_behind_it():
    clear = np.zeros((16, 16, 4), np.uint8)
    grey_clear = np.zeros((16, 16, 2), np.uint8)
    for background, value in (('white', 255), ('black', 0)):
        dataset = nets.small(
            dataset__image_size=16, augmentation__crop=16, dataset__background=background
        ).dataset
        for image in (clear, grey_clear, encode(Image.fromarray(clear), 'PNG')):
            assert (pictures.read(image, dataset) == value).all()


def test_a_file_is_read_up_to_a_limit_and_a_pipe_too(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, 'MAX_BYTES', 100)
    os.mkfifo(tmp_path / 'pipe')
    assert pictures.read_file(tmp_path / 'pipe') == b'', 'nobody writes to it'
    for number in (100, 101):
        file = tmp_path / f'{number}'
        file.write_bytes(b'x' * number)
        reader = os.open(tmp_path / 'pipe', os.O_RDWR)
        os.write(reader, b'x' * number)
        closing = threading.Timer(0.2, os.close, [reader])
        closing.start()
        for path in (file, tmp_path / 'pipe'):
            if number == 100:
                assert pictures.read_file(path) == b'x' * 100
            else:
                with pytest.raises(BadImage, match=r'has (101|more than 100) bytes'):
                    pictures.read_file(path)
        closing.join()
    with pytest.raises(BadImage, match='is not a file'):
        pictures.read_file('/dev/zero')
    with pytest.raises(IsADirectoryError):
        pictures.read_file(tmp_path)
