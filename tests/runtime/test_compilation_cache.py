import warnings
from pathlib import Path

import jax
import pytest

from alexnet_jax.runtime import compilation_cache


@pytest.fixture
def cache_folder(monkeypatch):
    """Returns a function that enables the cache and returns its folder."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')

    def enable():
        jax.config.update('jax_compilation_cache_dir', None)
        with warnings.catch_warnings():
            compilation_cache.enable()
        return jax.config.jax_compilation_cache_dir

    yield enable
    jax.config.update('jax_compilation_cache_dir', before)


def test_programs_are_cached_in_the_users_folder(cache_folder, monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert cache_folder() == str(tmp_path / 'alexnet_jax')
    monkeypatch.setenv('XDG_CACHE_HOME', 'relative')  # invalid by the specification
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    assert cache_folder() == str(tmp_path / 'home' / '.cache' / 'alexnet_jax')


def test_jaxs_own_variable_takes_precedence():
    before = jax.config.jax_compilation_cache_dir
    with warnings.catch_warnings():
        compilation_cache.enable()
    assert jax.config.jax_compilation_cache_dir == before  # the tests set the variable


def test_without_a_folder_that_can_be_written_there_is_no_cache(cache_folder, monkeypatch):
    """A home directory that is unknown or read-only is no reason to fail."""
    monkeypatch.setenv('XDG_CACHE_HOME', '/proc/no/such')
    assert cache_folder() is None

    def unknown(_):
        raise RuntimeError('Could not determine home directory.')

    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setattr(Path, 'expanduser', unknown)
    assert cache_folder() is None


def test_a_cache_that_cannot_be_written_is_no_warning():
    """JAX would warn at every compilation of a run."""
    with warnings.catch_warnings(record=True) as caught:
        compilation_cache.enable()
        warnings.warn('Error writing persistent compilation cache entry for x', stacklevel=1)
    assert caught == []
