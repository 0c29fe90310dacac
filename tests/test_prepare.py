import sys

import pytest

import runs
from alexnet_jax import datasets
from alexnet_jax.errors import UserError


def prepare(*arguments):
    return runs.run([sys.executable, '-m', 'alexnet_jax.prepare', *arguments])


def test_prepares_once_and_counts(tmp_path):
    for _ in range(2):
        code, out, err = prepare('--name=digits', f'--data_dir={tmp_path}')
        assert code == 0, err
        assert 'train: 1,442 images' in out
        assert 'test: 355 images' in out
    assert len(list(tmp_path.glob('digits/*/*.array_record*'))) == 2


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--name=no_such_set'], "'no_such_set' is no TFDS data set"),
        ([], 'Flag --name must have a value'),
        (['--nam=digits'], 'Did you mean: name'),
        (['--name=imagenet2012', '--tars=/no/such/folder'], '/no/such/folder does not exist'),
        (['--name=digits', '--data_dir=/proc/x'], 'cannot write the data set to /proc/x'),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, message):
    code, _, err = prepare(f'--data_dir={tmp_path}', *arguments)
    assert code == 2
    assert message in err
    assert 'Traceback' not in err


class NeedsTensorFlow:
    """A builder of TFDS's own that cannot do without it."""

    name, data_dir = 'imagenet2012', '/data'

    def download_and_prepare(self, **_):
        raise ModuleNotFoundError("No module named 'tensorflow'", name='tensorflow')


def test_what_is_missing_is_named():
    with pytest.raises(UserError, match='pip install tensorflow'):
        datasets.prepare(NeedsTensorFlow())
