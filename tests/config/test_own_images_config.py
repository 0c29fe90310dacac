"""The rules of configs/own_images.py, and the table of docs/own_images.md that they give."""

import pytest

import nets
from alexnet_jax.config import loading
from alexnet_jax.config.fitting import fitted_settings
from alexnet_jax.config.fitting.image_survey import TYPICAL, ImageSurvey
from alexnet_jax.config.schema import flatten
from alexnet_jax.config.validation import resolve
from alexnet_jax.model.layer_table import layer_table

RAW = nets.load('own_images')
RULES = loading.find_rules(loading.find_config('own_images'))
DOCS = nets.ROOT / 'docs' / 'own_images.md'
SIDES = (16, 28, 32, 64, 100, 150, 224, 300, 1000)
NUMBERS = (4, 40, 200, 1_000, 9_000, 30_000, 100_000, 1_000_000)
# Those of the table in docs/own_images.md.
EXAMPLES = ((200, 300), (1_000, 64), (2_000, 300), (9_000, 28), (9_000, 64), (9_000, 300)) + (
    (50_000, 32),
    (50_000, 300),
    (300_000, 300),
)


def survey(number, side, grey=0.0):
    return ImageSurvey((number // 2, number - number // 2), side, side, side, grey)


def fit(number, side, overrides=None):
    """Returns the checked settings for so many images of this short side."""
    raw = RAW.copy_and_resolve_references()
    loading.override(raw, overrides or {})
    fixed = set(overrides or {})
    config, rows = fitted_settings.fit_settings(raw, RULES, survey(number, side), fixed)
    loading.override(config, {'dataset.classes': 2})
    return resolve(config), rows


@pytest.mark.parametrize('side', SIDES)
def test_every_size_and_number_of_images_has_valid_settings(side):
    for number in NUMBERS:
        config, rows = fit(number, side)
        assert config.optimizer.batch_size <= number
        assert layer_table(config)[-2].maps > 0
        assert all(reason for _, _, reason in rows)


def test_the_same_settings_are_fitted_whatever_the_images():
    """A resumed run knows from this what to read from its record."""
    names = fitted_settings.names_of_fitted(RAW, RULES)
    for side in SIDES:
        for number in NUMBERS:
            assert [row.name for row in fit(number, side)[1]] == names
    assert len(names) == len(set(names))


def test_images_become_as_large_as_they_are_and_their_number_allows():
    sizes = {side: fit(9_000, side)[0].dataset.image_size for side in SIDES}
    assert list(sizes.values()) == sorted(sizes.values())
    assert fit(9_000, 300)[0].dataset.image_size < fit(100_000, 300)[0].dataset.image_size == 256
    assert fit(100_000, 28)[0].dataset.image_size < 64


def test_the_first_layer_of_small_images_keeps_their_pixels():
    config, _ = fit(9_000, 28)
    assert layer_table(config)[0].size == config.augmentation.crop
    assert fit(100_000, 300)[0].model.conv1.stride == 4


def test_what_the_user_sets_is_followed():
    config, rows = fit(9_000, 28, {'dataset.image_size': 256, 'optimizer.epochs': 10.0})
    assert (config.augmentation.crop, config.model.conv1.kernel) == (224, 11)
    assert max(config.learning_rate.steps.epochs) < 10
    by_user = [row.name for row in rows if row.reason == 'set by you']
    assert by_user == ['dataset.image_size', 'optimizer.epochs']


def test_any_size_of_images_has_a_crop():
    crops = [fit(9_000, 28, {'dataset.image_size': n})[0].augmentation.crop for n in (1, 2, 8)]
    assert crops == [1, 1, 6]


def test_grey_images_have_no_colour_noise():
    for grey, noise in ((1.0, 'none'), (0.0, 'root')):
        config, _ = fitted_settings.fit_settings(RAW, RULES, survey(100, 28, grey))
        assert flatten(config)['augmentation.colour.noise'] == noise
    assert TYPICAL.images == 10_000


def test_few_images_make_small_batches_and_many_make_wide_nets():
    configs = [fit(number, 28)[0] for number in NUMBERS]
    for values in (
        [c.optimizer.batch_size for c in configs],
        [c.model.width for c in configs],
        [c.learning_rate.initial for c in configs],
    ):
        assert values == sorted(values)
        assert values[0] < values[-1]


def table():
    """Returns the table of docs/own_images.md: what the rules choose for each example."""
    lines = [
        '| images | short side | image_size / crop | conv1 | width | parameters | batch | epochs |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for number, side in EXAMPLES:
        c, _ = fit(number, side)
        parameters = sum(row.parameters for row in layer_table(c)[:-1])
        first = c.model.conv1
        cells = (
            f'{number:,}',
            f'{side}',
            f'{c.dataset.image_size} / {c.augmentation.crop}',
            f'{first.kernel}x{first.kernel}, stride {first.stride}',
            f'{c.model.width:g}',
            f'{parameters / 1e6:.1f} million',
            f'{c.optimizer.batch_size}',
            f'{c.optimizer.epochs:g}',
        )
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def test_the_table_of_the_docs_is_what_the_rules_choose():
    """In tests/, `import config.test_own_images_config as t; print(t.table())` writes it again."""
    assert table() in DOCS.read_text()
