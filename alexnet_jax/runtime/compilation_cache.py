"""JAX's persistent compilation cache, which spares later starts most of the compilation."""

import os
from pathlib import Path

import jax


def enable() -> None:
    """Stores compiled programs in the user's cache folder, and loads them from there.

    The variables JAX_COMPILATION_CACHE_DIR and JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS take
    precedence over the folder and the shortest compilation time, in seconds, that are set here.
    """
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
        caches = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
        jax.config.update('jax_compilation_cache_dir', str(caches / 'alexnet_jax'))
    if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
