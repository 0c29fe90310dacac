import numpy as np
import pytest

from alexnet_jax.data.preparation.catalogue import Catalogue, Entries
from alexnet_jax.runtime.user_errors import UserError


def entries_of(names, label=0, size=100):
    entries = Entries()
    entries.start_file('images.tar')
    for i, name in enumerate(names):
        entries.add(name, label, size * i, size)
    return entries


NAMES = [f'n01440764_{i}.JPEG' for i in range(1000)]


def test_storage_order_is_a_function_of_the_names():
    order = entries_of(NAMES).storage_order()
    assert sorted(order) == list(range(len(NAMES)))
    assert np.corrcoef(order, np.arange(len(order)))[0, 1] < 0.1
    np.testing.assert_array_equal(order, entries_of(NAMES, label=3, size=7).storage_order())
    reverse = entries_of(NAMES[::-1]).storage_order()
    assert [NAMES[i] for i in order] == [NAMES[::-1][i] for i in reverse]


def test_fingerprint_changes_with_every_image():
    def fingerprint(*arguments):
        return Catalogue('set', '', ['cat', 'dog'], {'train': entries_of(*arguments)}).fingerprint()

    variants = [(NAMES,), (NAMES[1:],), (NAMES[::-1],), (NAMES, 1), (NAMES, 0, 99)]
    assert len({fingerprint(*variant) for variant in variants}) == len(variants)
    assert fingerprint(NAMES) == fingerprint(NAMES)


def test_catalogue_is_complete_if_the_published_images_are_there():
    def catalogue(published, classes=('cat',)):
        splits = {'train': entries_of(NAMES)}
        return Catalogue('set', '', [*classes], splits, published=published)

    catalogue({'train': 1000}).check_complete()
    catalogue({'validation': 5}).check_complete()
    for number in (999, 1001):
        with pytest.raises(UserError, match=f'1,000 images instead of the published {number:,}'):
            catalogue({'train': number}).check_complete()
    with pytest.raises(UserError, match='lacks 1 of 2 synsets, for example dog'):
        catalogue({'train': 1000}, ('cat', 'dog')).check_complete()
