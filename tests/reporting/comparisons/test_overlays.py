"""Any runs in one section of a report."""

import shutil
import xml.etree.ElementTree as ET

import pytest

import runs
from alexnet_jax.reporting.comparisons import overlays
from alexnet_jax.runtime.user_errors import UserError


def tree(markup):
    return ET.fromstring(f'<div>{markup}</div>')


def rows(table):
    return [[''.join(cell.itertext()).strip() for cell in row] for row in table.findall('.//tr')]


def classes(plot):
    groups = [g for g in plot if g.get('class', '').startswith('curve')]
    return [g.get('class') for g in groups]


@pytest.fixture
def folders(tmp_path):
    """Three runs; the third has been stopped and the second has diverged."""
    first = runs.logged(tmp_path / 'a' / 'run', [0.8, 0.4], optimizer__epochs=2.0)
    second = runs.logged(tmp_path / 'b' / 'run', [0.9], optimizer__momentum=0.5)
    third = runs.logged(tmp_path / 'last', [0.5, 0.3, 0.2], optimizer__epochs=2.0, seed=7)
    (second / 'diverged.txt').write_text('the loss is nan at step 12\n')
    return [first, second, third]


def test_runs_have_the_colours_of_their_key_in_all_plots(folders):
    body = tree(overlays.compare(folders).body)
    table, *_ = body.findall('.//table')
    keys = [cell.find('svg/g').get('class') for cell in table.findall('.//tbody//th')]
    assert keys == ['curve0 solid', 'curve1 solid', 'curve2 solid']
    plots = body.findall('.//div[@class="pair"]//svg')
    assert [classes(plot) for plot in plots] == [keys] * 3  # loss, training and test error
    assert not [g for plot in plots for g in plot if g.get('class') == 'legend']


def test_final_errors_are_those_that_were_logged_last(folders):
    table, *_ = tree(overlays.compare(folders).body).findall('.//table')
    first, second, third = rows(table)[1:]
    assert first[1:] == ['2.0', '40.00', '20.00', '10.00']
    assert second[1:3] == ['1.0 of 24', '90.00']
    assert 'diverged: the loss is nan at step 12' in second[0]
    # Two runs have the same name: their paths are shown.
    assert first[0] == str(folders[0])
    assert third[0] == 'last'


def test_the_settings_that_differ_are_listed_with_their_values(folders):
    *_, table = tree(overlays.compare(folders).body).findall('.//table')
    assert dict((row[0], row[1:]) for row in rows(table)[1:]) == {
        'seed': ['0', '0', '7'],
        'optimizer.epochs': ['2.0', '24.0', '2.0'],
        'optimizer.momentum': ['0.9', '0.5', '0.9'],
    }
    copy = shutil.copytree(folders[0], folders[0].parent / 'copy')
    assert 'All runs have the same settings.' in overlays.compare([folders[0], copy]).body


def test_many_runs_differ_in_style_where_colours_are_used_again():
    looks = [overlays.curve_look(number) for number in range(overlays.MOST)]
    assert len(set(looks)) == overlays.MOST


def test_what_cannot_be_compared_is_one_line(folders, tmp_path):
    with pytest.raises(UserError, match=r'needs from 2 to 24 runs.*not 1: change --with'):
        overlays.compare(folders[:1])
    with pytest.raises(UserError, match='is named twice'):
        overlays.compare([*folders, folders[0].parent / '..' / 'a' / 'run'])
    with pytest.raises(UserError, match='none is not the workdir of a run'):
        overlays.compare([*folders, tmp_path / 'none'])
    (folders[0] / 'metrics.jsonl').unlink()
    with pytest.raises(UserError, match=r'has no metrics\.jsonl with curves'):
        overlays.compare(folders)
    (tmp_path / 'sweep.json').write_text('{}')
    with pytest.raises(UserError, match=r'is the folder of a sweep, whose curves are in .*html'):
        overlays.compare([folders[2], tmp_path])
