"""A wrong name is answered by the setting that was meant, or by none."""

import pytest

from alexnet_jax.config import settings, suggestions


@pytest.mark.parametrize(
    ('name', 'meant'),
    [
        ('lr', ['learning_rate.initial']),
        ('learning_rate', ['learning_rate.initial']),
        ('optimizer.lr', ['learning_rate.initial']),
        ('optimizer.learning_rate', ['learning_rate.initial']),
        ('learnig_rate', ['learning_rate.initial']),
        ('batch_size', ['optimizer.batch_size']),
        ('batchsize', ['optimizer.batch_size']),
        ('evaluation.batchsize', ['evaluation.batch_size']),
        ('train.batch_size', ['optimizer.batch_size']),
        ('epochs', ['optimizer.epochs']),
        ('num_epochs', ['optimizer.epochs']),
        ('steps.epochs', ['learning_rate.steps.epochs']),
        ('weight_decay', ['optimizer.weight_decay']),
        ('wd', ['optimizer.weight_decay']),
        ('momentum', ['optimizer.momentum']),
        ('optimizer.momentun', ['optimizer.momentum']),
        ('optimiser.momentum', ['optimizer.momentum']),
        ('seed', ['seed']),
        ('sed', ['seed']),
        ('num_classes', ['dataset.classes']),
        ('image_size', ['dataset.image_size']),
        ('num_workers', ['loader.workers']),
        ('dropout', ['model.fc6.dropout', 'model.fc7.dropout']),
        ('model.fc6.drop_out', ['model.fc6.dropout']),
        ('dataset', ['dataset.name']),
        ('data_dir', ['dataset.data_dir']),
        ('conv3.then', ['model.conv3.then']),
        ('model.conv1.kernal', ['model.conv1.kernel']),
        ('model.conv7.maps', ['model.conv1.maps', 'model.conv2.maps', 'model.conv3.maps']),
        ('model.conv3.bn', ['model.conv3.batch_normalization']),
        ('model.conv2.filters', ['model.conv2.maps']),
        ('augmentation.color.noise', ['augmentation.colour.noise']),
        ('log.every_step', ['log.every_steps']),
    ],
)
def test_the_setting_that_was_meant(name, meant):
    assert suggestions.meant(name) == meant


@pytest.mark.parametrize(
    'name',
    ['foo', 'optimizer.name', 'optimizer.nesterov', 'optimizer.beta1', 'training.steps', 'config'],
)
def test_no_suggestion_rather_than_an_unrelated_one(name):
    assert suggestions.meant(name) == []
    assert suggestions.hint(name) == '--settings lists all settings'


def test_names_of_other_programs_stand_for_settings_that_exist():
    catalogue = settings.catalogue()
    for names in suggestions._ALIASES.values():
        assert set(names) <= catalogue.keys()
    parts = {name.rpartition('.')[2] for name in catalogue}
    assert set(suggestions._PARTS.values()) <= parts


def test_the_last_part_of_a_setting_leads_to_it():
    for name in settings.catalogue():
        last = name.rpartition('.')[2]
        assert any(x.endswith(last) for x in suggestions.meant(last)), name
