import jax

from alexnet_jax.runtime import compilation_cache


def test_programs_are_cached_in_the_users_folder(monkeypatch, tmp_path):
    """Unless JAX's own variable names another folder."""
    before = jax.config.jax_compilation_cache_dir
    compilation_cache.enable()
    assert jax.config.jax_compilation_cache_dir == before  # the tests set the variable
    monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    try:
        compilation_cache.enable()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / 'alexnet_jax')
    finally:
        jax.config.update('jax_compilation_cache_dir', before)
