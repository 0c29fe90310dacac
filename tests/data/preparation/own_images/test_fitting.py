import re

import pytest

import nets
import tars
from alexnet_jax.config import loading
from alexnet_jax.config.schema import flatten
from alexnet_jax.data.preparation.own_images import fitting, survey
from alexnet_jax.runtime.user_errors import UserError

RULES = loading.find_rules(loading.find_config('own_images'))


def raw_of(name, **overrides):
    raw = nets.load(name)
    loading.override(raw, {key.replace('__', '.'): value for key, value in overrides.items()})
    return raw


def test_a_config_that_states_everything_is_not_touched():
    raw = nets.load('digits')
    assert not fitting.is_fitted(raw, None)
    assert fitting.fit_config(raw, ()) == (raw, '', None)


def test_the_classes_of_a_folder_are_counted_with_any_config(tmp_path):
    pets = tars.class_folders(tmp_path / 'pets', ('ant', 'bee', 'cat'))
    raw = raw_of('digits', dataset__classes=0, dataset__folder=str(pets))
    fitted = fitting.fit_config(raw, ())
    changed = {k: v for k, v in flatten(fitted.raw).items() if v != flatten(raw)[k]}
    assert changed == {'dataset.classes': 3}
    assert fitted.catalogue.classes == ['ant', 'bee', 'cat']
    assert '3 classes: ant, bee, cat' in fitted.notes


def test_the_classes_of_a_named_data_set_are_known_without_preparing_it(tmp_path):
    raw = raw_of('digits', dataset__classes=0, dataset__data_dir=str(tmp_path))
    assert flatten(fitting.fit_config(raw, ()).raw)['dataset.classes'] == 10
    assert not list(tmp_path.iterdir())
    for name, message in (('synthetic', 'any number of classes'), ('no_such_set', 'not a TFDS')):
        with pytest.raises(UserError, match=message):
            fitting.fit_config(raw_of('digits', dataset__classes=0, dataset__name=name), ())


def test_own_images_are_surveyed_and_described(tmp_path):
    pets = tars.class_folders(tmp_path / 'pets', images=30)
    raw = raw_of('own_images', dataset__folder=str(pets), optimizer__epochs=5.0)
    fitted = fitting.fit_config(raw, {'dataset.folder', 'optimizer.epochs'}, RULES)
    values = flatten(fitted.raw)
    assert (values['dataset.classes'], values['optimizer.epochs']) == (2, 5.0)
    assert values['dataset.image_size'] < 64
    for line in (
        f'{pets}: 2 classes: cat, dog',
        '  class  train  validation',
        'trained on train, validated on validation',
        'a short side of 40 pixels; in colour',
    ):
        assert line in fitted.notes
    assert re.search(r'dataset\.classes +2  as many as there are', fitted.notes)
    assert re.search(r'optimizer\.epochs +5\.0  set by you', fitted.notes)
    assert 'always answering ' in fitted.notes


def test_a_resumed_run_has_the_settings_of_its_start_whatever_the_images_are_now(monkeypatch):
    """The folder may be gone: this is noticed where the images are opened."""
    raw = raw_of('own_images', dataset__folder='/gone', augmentation__mirror=False)
    recorded = raw_of(
        'own_images', dataset__classes=7, model__width=0.125, augmentation__mirror=True, seed=5
    )
    monkeypatch.setattr(survey, 'survey', None)
    fitted = fitting.fit_config(raw, {'augmentation.mirror'}, RULES, recorded)
    values = flatten(fitted.raw)
    assert (values['dataset.classes'], values['model.width']) == (7, 0.125)
    assert (values['augmentation.mirror'], values['seed']) == (False, 0)  # compared later
    assert fitted.catalogue is None


def test_rules_need_a_folder():
    with pytest.raises(UserError, match=r'set --config\.dataset\.folder=DIR'):
        fitting.fit_config(nets.load('own_images'), (), RULES)


def test_the_same_images_have_the_same_settings(tmp_path):
    pets = tars.class_folders(tmp_path / 'pets', images=25)
    raw = raw_of('own_images', dataset__folder=str(pets))
    one, other = (fitting.fit_config(raw, (), RULES) for _ in range(2))
    assert one.raw.to_dict() == other.raw.to_dict()


@pytest.mark.parametrize('recorded', [None, nets.load('own_images')])
def test_settings_out_of_range_are_named_before_the_images_are_looked_at(recorded):
    """The rules divide by the batch size."""
    raw = raw_of('own_images', dataset__folder='/gone', optimizer__batch_size=0)
    with pytest.raises(UserError, match=r'^optimizer\.batch_size=0 must be at least 1'):
        fitting.fit_config(raw, {'optimizer.batch_size'}, RULES, recorded)
