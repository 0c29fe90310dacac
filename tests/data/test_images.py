import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

import tars
from alexnet_jax.data import images

RNG = np.random.default_rng(0)
PICTURE = tars.picture(RNG, 300, 400)


@pytest.mark.parametrize('mode', ['RGB', 'L'])
@pytest.mark.parametrize('quality', [30, 90])
def test_jpegs_are_decoded_to_the_same_bits_as_by_pillow(mode, quality):
    data = tars.encode(PICTURE, mode=mode, quality=quality)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))
    np.testing.assert_array_equal(images.decode(data), expected)


@pytest.mark.parametrize(
    ('mode', 'form'),
    [
        *[('RGB', form) for form in images.FORMATS],
        *(('L', 'PNG'), ('CMYK', 'JPEG'), ('L', 'JPEG'), ('RGBA', 'PNG'), ('P', 'PNG')),
    ],
)
def test_every_kind_of_image_becomes_rgb(mode, form):
    grey = np.full((60, 40, 3), 204, np.uint8)
    image = images.decode(tars.encode(grey, form, mode))
    assert image.shape == (60, 40, 3)
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image, 204, atol=4)


def test_cmyk_keeps_its_colours():
    """22 images of ILSVRC-2012 are CMYK; decoded as RGB they would be garbage."""
    red = np.full((40, 40, 3), (220, 30, 40), np.uint8)
    image = images.decode(tars.encode(red, mode='CMYK', quality=95))
    np.testing.assert_allclose(image, red, atol=6)


def test_large_jpegs_may_be_decoded_at_a_reduced_size():
    """The short side is never below `least`, and the picture is the same."""
    data = tars.encode(tars.picture(RNG, 1000, 1600), quality=95)
    full = images.decode(data)
    for least, rows in ((0, 1000), (600, 1000), (500, 500), (251, 500), (250, 250), (100, 125)):
        image = images.decode(data, least)
        assert image.shape[0] == rows
        n = 1000 // rows
        mean = full.reshape(rows, n, 1600 // n, n, 3).mean((1, 3))
        assert np.abs(image - mean).mean() < 1


def test_only_a_jpeg_of_the_same_size_is_decoded_into_an_array():
    data = tars.encode(PICTURE)
    out = np.zeros((300, 400, 3), np.uint8)
    assert images.decode_into(data, out)
    np.testing.assert_array_equal(out, images.decode(data))
    assert not images.decode_into(data, np.zeros((300, 401, 3), np.uint8))
    assert not images.decode_into(tars.encode(PICTURE, 'PNG'), out)
    assert not images.decode_into(tars.encode(PICTURE, mode='CMYK'), out)
    assert not images.decode_into(data[:-2000], out)


@pytest.mark.parametrize('filter', images.FILTERS)
@pytest.mark.parametrize('short', [100, 64, 40])
def test_filters_agree_with_pillow(filter, short):
    """Smaller images are enlarged with the bicubic filter, as in cuda-convnet2."""
    image = tars.picture(RNG, short, short) // 2 + RNG.integers(0, 128, (short, short, 3), np.uint8)
    ours = images.central_square(image, 64, filter).astype(int)
    expected_filter = 'bicubic' if short < 64 and filter != 'nearest' else filter
    pillow = np.asarray(Image.fromarray(image).resize((64, 64), images.FILTERS[expected_filter]))
    assert np.abs(ours - pillow).max() <= 8
    assert np.abs(ours - pillow).mean() < 0.1


@pytest.mark.parametrize('filter', images.FILTERS)
def test_all_filters_but_nearest_average(filter):
    """Stripes narrower than a new pixel become grey, without aliasing."""
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    small = images.central_square(stripes, 128, filter)
    if filter == 'nearest':
        assert set(np.unique(small)) <= {0, 255}
    else:
        np.testing.assert_allclose(small[8:-8, 8:-8], 127.5, atol=2)


def test_the_short_side_is_scaled_and_the_centre_cropped():
    """§2: a picture twice as wide as high loses its left and right quarter."""
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 20:60] = 255
    for wide in (picture, picture.swapaxes(0, 1)):
        image = images.central_square(wide, 20, 'bicubic')
        assert image.shape == (20, 20, 3)
        assert image.min() == 255


def test_exif_orientation_is_followed_only_if_upright():
    orientation = Image.Exif()
    orientation[0x0112] = 6
    picture = np.zeros((60, 90, 3), np.uint8)
    picture[:20] = 250
    data = tars.encode(picture, exif=orientation.tobytes(), quality=95)
    assert images.decode(data).shape == (60, 90, 3)
    upright = images.decode(data, upright=True)
    assert upright.shape == (90, 60, 3)
    assert upright[:, -15:].min() > 230
    assert images.decode(tars.encode(picture), upright=True).shape == (60, 90, 3)


def bomb(width=60_000, height=60_000):
    """Returns a tiny PNG that claims to have so many pixels."""
    data = bytearray(tars.encode(np.zeros((1, 1, 3), np.uint8), 'PNG'))
    data[16:24] = struct.pack('>II', width, height)
    data[29:33] = struct.pack('>I', zlib.crc32(data[12:29]))
    return bytes(data)


def test_an_image_of_200_million_pixels_is_not_too_large():
    """Phones make such photographs; Pillow alone would refuse them."""
    with pytest.raises(images.BadImage) as error:
        images.decode(bomb(20_000, 10_000))  # whose pixels are missing
    assert 'more than' not in str(error.value)


def jpeg_bomb():
    data = bytearray(tars.encode(np.zeros((8, 8, 3), np.uint8)))
    at = data.index(b'\xff\xc0') + 5
    data[at : at + 4] = struct.pack('>HH', 60_000, 60_000)
    return bytes(data)


def drawing(mode):
    """Returns a file: opaque red, half transparent black and transparent black, each 4 x 4."""
    rgba = np.zeros((4, 12, 4), np.uint8)
    rgba[:, :4] = (200, 0, 0, 255)
    rgba[:, 4:8, 3] = 128
    picture = Image.fromarray(rgba)
    form = mode if mode in ('WEBP', 'TIFF') else 'PNG'
    options = {'lossless': True, 'exact': True} if mode == 'WEBP' else {}
    file = io.BytesIO()
    (picture.convert('LA') if mode == 'LA' else picture).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'WEBP', 'TIFF'])
@pytest.mark.parametrize(('background', 'half', 'none'), [('white', 127, 255), ('black', 0, 0)])
def test_transparent_pixels_show_the_background(mode, background, half, none):
    image = images.decode(drawing(mode), background=background)
    red = (60, 60, 60) if mode == 'LA' else (200, 0, 0)
    np.testing.assert_array_equal(image[0, [0, 5, 9]], [red, [half] * 3, [none] * 3])
    squares = [
        images.square(drawing(mode), 4, 'nearest', background=background),
        images.decode(drawing(mode), upright=True, background=background)[:, 4:8],
    ]
    for square in squares:
        np.testing.assert_array_equal(square, image[:, 4:8])


@pytest.mark.parametrize('form', ['PNG', 'GIF'])
def test_a_transparent_colour_of_a_palette_shows_the_background(form):
    indices = np.zeros((4, 4), np.uint8)
    indices[:2] = 1
    picture = Image.fromarray(indices).convert('P')
    picture.putpalette([10, 20, 30, 40, 50, 60])
    file = io.BytesIO()
    picture.save(file, form, transparency=0)
    for background, level in (('white', 255), ('black', 0)):
        image = images.decode(file.getvalue(), background=background)
        np.testing.assert_array_equal(image[[0, 3], 0], [[40, 50, 60], [level] * 3])


def test_a_transparent_grey_level_shows_the_background():
    """Of 8 and of 16 bits."""
    for kind, scale in ((np.uint8, 1), (np.uint16, 257)):
        levels = np.array([[7 * scale, 100 * scale]], kind)
        file = io.BytesIO()
        Image.fromarray(levels).save(file, 'PNG', transparency=7 * scale)
        image = images.decode(file.getvalue())
        np.testing.assert_array_equal(image[0], [[255] * 3, [100] * 3])


@pytest.mark.parametrize('mode', ['RGB', 'L', 'P', '1', 'RGBA'])
def test_the_background_changes_nothing_of_opaque_images(mode):
    data = tars.encode(PICTURE, 'PNG', mode)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))
    for background in ('white', 'black'):
        np.testing.assert_array_equal(images.decode(data, background=background), expected)


@pytest.mark.parametrize('form', ['PNG', 'WEBP', 'JPEG'])
@pytest.mark.parametrize('exif', [b'garbage', b'Exif\0\0garbage', b'Exif\0\0MM\0*\0\0\0\x08\xff'])
def test_broken_exif_is_ignored(form, exif):
    data = tars.encode(PICTURE, form, exif=exif)
    np.testing.assert_array_equal(images.decode(data, upright=True), images.decode(data))
    assert images.square(data, 64, 'bicubic', upright=True).shape == (64, 64, 3)


@pytest.mark.parametrize('error', [MemoryError(), OSError('out of memory error')])
@pytest.mark.parametrize('upright', [False, True])
def test_lack_of_memory_is_no_bad_image(monkeypatch, error, upright):
    def fail(*_, **__):
        raise error

    files = [tars.encode(PICTURE, 'PNG'), tars.encode(PICTURE, mode='CMYK')]
    for owner, name in ((Image.Image, 'convert'), (Image, 'open')):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            for data in files:
                with pytest.raises(MemoryError):
                    images.decode(data, upright=upright)


def test_sixteen_bits_become_eight():
    ramp = np.linspace(0, 65535, 60 * 40).reshape(60, 40).astype(np.uint16)
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, 'PNG')
    image = images.decode(file.getvalue())
    np.testing.assert_allclose(image[..., 0], ramp / 257, atol=1)


def floats():
    file = io.BytesIO()
    Image.fromarray(np.ones((9, 9), np.float32)).save(file, 'TIFF')
    return file.getvalue()


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (b'', 'is not an image'),
        (b'GIF89a is all there is', 'image'),
        (tars.encode(PICTURE)[:-2000], 'truncated'),
        (tars.encode(PICTURE)[:300], ''),
        (tars.encode(PICTURE, mode='CMYK')[:-2000], 'truncated'),
        (tars.encode(PICTURE, 'PNG')[:-2000], ''),
        (bomb(), 'has more than 268,435,456 pixels'),
        (floats(), 'pixels of an unknown range'),
        (jpeg_bomb(), '60000 x 60000 pixels'),
    ],
)
def test_bad_images_are_described_in_a_few_words(data, message):
    with pytest.raises(images.BadImage) as error:
        images.square(data, 64, 'bicubic')
    assert message in str(error.value)
    assert '\n' not in str(error.value)
    assert str(error.value)


def test_encoding_preserves_the_picture():
    for quality, most in ((100, 1.5), (90, 3), (50, 6)):
        decoded = images.decode(images.encode(PICTURE, quality)).astype(int)
        assert np.abs(decoded - PICTURE).mean() < most
    assert len(images.encode(PICTURE, 50)) < len(images.encode(PICTURE, 90))


def test_plain_jpegs_are_recognized():
    assert images.is_plain_jpeg(tars.encode(PICTURE))
    assert images.is_plain_jpeg(tars.encode(PICTURE, mode='L'))
    assert not images.is_plain_jpeg(tars.encode(PICTURE, mode='CMYK'))
    assert not images.is_plain_jpeg(tars.encode(PICTURE, 'PNG'))
    assert not images.is_plain_jpeg(b'\xff\xd8')
