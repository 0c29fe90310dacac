"""Programs that XLA compiled are kept on the disk, for the next start."""

import os
from pathlib import Path

import jax


def keep() -> None:
    """Programs are compiled once for a machine; JAX_COMPILATION_CACHE_DIR says where they lie."""
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
        caches = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser()
        jax.config.update('jax_compilation_cache_dir', str(caches / 'alexnet_jax'))
    if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
