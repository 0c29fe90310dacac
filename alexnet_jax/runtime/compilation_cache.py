"""JAX's persistent compilation cache, which spares later starts most of the compilation."""

import os
import tempfile
import warnings
from pathlib import Path

import jax


def enable() -> None:
    """Stores compiled programs in the user's cache folder, and loads them from there.

    The variables JAX_COMPILATION_CACHE_DIR and JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS take
    precedence over the folder and the shortest compilation time, in seconds, that are set here.
    Where no such folder can be written, everything is compiled at each start.
    """
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
        folder = _folder()
        if folder is not None:
            jax.config.update('jax_compilation_cache_dir', str(folder))
    if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
    # A cache that cannot be read or written only costs time, and JAX warns at each compilation.
    warnings.filterwarnings('ignore', 'Error (reading|writing) persistent compilation cache')


def _folder() -> Path | None:
    """Returns the folder in the user's cache folder; None if it cannot be written.

    The home directory may be unknown, as in a container with another user's number.
    """
    try:
        # A relative path is invalid by the XDG specification, and to be ignored.
        caches = Path(os.environ.get('XDG_CACHE_HOME', ''))
        if not caches.is_absolute():
            caches = Path('~/.cache').expanduser()
        folder = caches / 'alexnet_jax'
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):
        return None
