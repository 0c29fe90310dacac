"""What the processes of a group compare before they do anything."""

import pytest

import nets
from alexnet_jax import main
from alexnet_jax.config import schema
from alexnet_jax.processes import group
from alexnet_jax.runtime.user_errors import UserError


class Different(group.Group):
    """A group whose other process has been started with something else."""

    count = 2

    def compare(self, values):
        self.values = values
        raise UserError('process 1 has another command')


def test_settings_and_flags_are_compared_before_anything_else(tmp_path, monkeypatch):
    """A process that only describes the net, for example, would leave the others waiting."""
    other, config = Different(), nets.small()
    monkeypatch.setattr(group, 'current', lambda: other)
    with pytest.raises(UserError, match='process 1 has another command'):
        main.main(config, tmp_path / 'run', True, True, (tmp_path / 'other', 7))
    assert other.values == schema.flatten(schema.as_dict(config)) | {
        'workdir': str(tmp_path / 'run'),
        'extend': True,
        'dry_run': True,
        'from': [str(tmp_path / 'other'), 7],
    }
    assert not (tmp_path / 'run').exists()
