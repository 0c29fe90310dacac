import pytest

from alexnet_jax.data.preparation.storage import Storage


@pytest.mark.parametrize(
    ('storage', 'name'),
    [
        (Storage(), 'imagenet2012_256'),
        (Storage(size=0), 'imagenet2012'),
        (Storage(raw=True, quality=50), 'imagenet2012_256_raw'),
        (Storage(size=128, quality=95), 'imagenet2012_128_q95'),
        (Storage(filter='nearest'), 'imagenet2012_256_nearest'),
        (Storage(background='black'), 'imagenet2012_256_black'),
    ],
)
def test_name_mentions_what_differs_from_the_defaults(storage, name):
    assert storage.name('imagenet2012') == name


def test_text_form_is_what_fingerprints_of_shards_have():
    """A change would make unfinished data sets of users start again."""
    text = "Storage(size=256, raw=False, quality=90, filter='bicubic')"
    assert str(Storage()) == text
    assert str(Storage(background='black')) == f'{text} on black'
