"""The tables for the terminal."""

import shlex
from pathlib import Path

import pytest

import nets
from alexnet_jax.model.layer_table import parameter_count
from alexnet_jax.reporting import terminal

CONFIG = nets.small()
RESULTS = {'images': 40, 'top1_error': 0.125, 'top5_error': 0.025}
RESULTS |= {'views/top1_error': 0.1, 'views/top5_error': 0.0}


def lines_of(config, images_per_second=50.0):
    return terminal.summary(config, RESULTS, images_per_second, Path('runs/x')).splitlines()


def test_the_summary_has_the_errors_in_percent():
    lines = lines_of(CONFIG)
    assert lines[0].split('  ')[0] == '40 test images'
    assert lines[1].split() == ['centre', 'crop', '12.50%', '2.50%']
    assert lines[2].split() == ['mean', 'of', '5', 'views', '10.00%', '0.00%']
    assert lines[3] == f'50 images/s in training, {parameter_count(CONFIG):,} parameters'
    assert lines[4].split() == ['workdir', 'runs/x']
    assert 'images/s' not in lines_of(CONFIG, 0.0)[3]


def test_the_summary_names_the_split_that_was_evaluated():
    config = nets.small(dataset__eval_split='validation[:50%]')
    assert lines_of(config)[0].split('  ')[0] == '40 validation images'


def test_the_command_for_the_curves_can_be_pasted():
    lines = terminal.summary(CONFIG, RESULTS, 50.0, Path("runs/it's mine")).splitlines()
    command = lines[5].removeprefix('curves').strip()
    assert shlex.split(command) == ['tensorboard', "--logdir=runs/it's mine"]


@pytest.mark.parametrize(('classes', 'columns'), [(4, 1), (5, 1), (6, 2)])
def test_the_summary_has_a_top_5_error_for_more_than_five_classes(classes, columns):
    lines = lines_of(nets.small(dataset__classes=classes))
    assert ('top-5 error' in lines[0]) == (columns == 2)
    assert [line.count('%') for line in lines[1:3]] == [columns, columns]


def test_the_summary_of_synthetic_images_begins_with_a_notice():
    assert len(lines_of(nets.small(dataset__name='synthetic'))) == len(lines_of(CONFIG)) + 1


def test_the_settings_are_lines_of_name_and_value():
    lines = terminal.settings_text(CONFIG).splitlines()
    assert 'optimizer.momentum = 0.9' in lines
    assert 'model.conv3.then = ["relu"]' in lines


def test_the_table_of_the_net_has_what_crosses_between_towers():
    """At crops of 64 pixels, conv3 reads 3x3 maps of float32."""
    lines = terminal.net_table(CONFIG, nets.mesh_of(2)).splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line}
    assert rows['conv3'][-1] == f'{int(rows["conv3"][1]) ** 2 * 16 * 4:,}'
    assert rows['all'][-1] == f'{parameter_count(CONFIG):,}'
    assert [line for line in lines if line.startswith('tower')] == [
        'tower 0: cpu:0',
        'tower 1: cpu:1',
    ]
