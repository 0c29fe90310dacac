"""The page of a sweep."""

import xml.etree.ElementTree as ET

import pytest

import runs
from alexnet_jax.reporting.comparisons.sweep_page import sweep_page


def row(folder, value, errors, **more):
    mean = sum(errors) / len(errors) if errors else None
    workdirs = [
        str(runs.logged(folder / f'{value}-{seed}', [0.9, 2 * error]))
        for seed, error in enumerate(errors)
    ]
    entries = {'name': f'x={value}', 'values': {'x': str(value)}, 'errors': errors, 'mean': mean}
    entries |= {'difference': None, 'low': None, 'high': None, 'diverged': {}, 'seconds': 60.0}
    return entries | {'workdirs': workdirs} | more


def page_of(rows, **more):
    summary = {'config': 'digits', 'settings': {'x': []}, 'base': 'x=1', 'best': rows[0]['name']}
    summary |= {'conclusion': 'best: <x>\nand more', 'note': 'noise', 'command': 'python'}
    text = sweep_page(summary | {'rows': rows} | more)
    return ET.fromstring(text.removeprefix('<!doctype html>'))


def paths(root, section):
    plots = root.findall(f".//section[@id='{section}']//svg")
    return [[g.get('class') for g in p if g.get('class', '')[:5] == 'curve'] for p in plots]


def test_the_seeds_of_a_row_have_one_colour_that_is_its_key(tmp_path):
    rows = [row(tmp_path, 0.01, [0.1, 0.2]), row(tmp_path, 0.1, [0.3, 0.3])]
    root = page_of(rows)
    keys = [svg.find('g').get('class') for svg in root.findall(".//svg[@class='key']")]
    assert keys == ['curve0 solid', 'curve1 solid']
    assert paths(root, 'curves') == [['curve0 solid'] * 2 + ['curve1 solid'] * 2] * 3
    text = ' '.join(root.itertext())
    assert 'best: <x>' in text
    assert '0.01 (best)' in text


def test_numbers_are_on_an_axis_with_the_mean_and_each_seed(tmp_path):
    root = page_of([row(tmp_path, 0.001, [0.1, 0.2]), row(tmp_path, 0.1, [0.3, 0.4])])
    *_, plot = root.findall(".//section[@id='result']//svg")
    mean, seeds = (g for g in plot if g.get('class', '').startswith('curve'))
    assert len(mean.findall('circle')) == 2
    assert len(seeds.findall('circle')) == 4
    assert seeds.find('path') is None
    assert 'The axis of the values is logarithmic.' in ' '.join(root.itertext())


def test_with_one_seed_nothing_is_said_of_means(tmp_path):
    text = ' '.join(page_of([row(tmp_path, x, [x]) for x in (0.125, 0.25)]).itertext())
    assert 'only several seeds' in text
    assert 'the mean over the seeds' not in text
    assert text.count('25.00') == 1


@pytest.mark.parametrize('values', [('relu', 'tanh'), (0.1,)])
def test_other_values_have_a_table_alone(tmp_path, values):
    root = page_of([row(tmp_path, value, [0.1]) for value in values])
    assert len(root.findall(".//section[@id='result']//svg")) == len(values)  # the keys


def test_a_row_that_has_diverged_says_when(tmp_path):
    diverged = row(tmp_path, 9, [], diverged={0: 'the loss is nan at step 7'})
    root = page_of([row(tmp_path, 1, [0.1]), diverged])
    assert 'seed 0: the loss is nan at step 7' in ' '.join(root.itertext())


def test_of_many_rows_the_best_are_drawn(tmp_path):
    rows = [row(tmp_path, n, [n / 100]) for n in range(1, 27)]
    root = page_of(rows[::-1])
    assert 'The curves of 24 of the 26 rows' in ' '.join(root.itertext())
    assert len(root.findall(".//svg[@class='key']")) == 24
    assert root.findall('.//tbody/tr')[0].find('.//svg') is None  # 26, the worst
