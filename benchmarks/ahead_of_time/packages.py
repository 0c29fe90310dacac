"""The packages that hold the compilers for NVIDIA GPUs and TPUs, in a folder of their own.

JAX's plugin for NVIDIA GPUs compiles without a driver, a GPU or cuDNN; it needs two more packages,
which hold ptxas and libdevice. They do not belong in an environment that is used for anything else:
JAX finds the plugin there and fails for lack of CUDA's libraries, unless JAX_PLATFORMS=cpu is set.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import jax

from alexnet_jax.runtime.user_errors import UserError

ROOT = Path(__file__).resolve().parents[2]
# PTX of a newer CUDA would need a newer ptxas than the plugin was built for.
ASSEMBLER = ['nvidia-cuda-nvcc>=13.0,<13.1', 'nvidia-nvvm>=13.0,<13.1']
MODULES = {'gpu': 'jax_plugins.xla_cuda13', 'tpu': 'libtpu'}


def default_folder() -> Path:
    """Returns the folder of the packages for the version of JAX in use."""
    return ROOT / 'build' / f'compilers-jax-{jax.__version__}'


def requirements() -> list[str]:
    """Returns the packages for the version of JAX in use, as arguments of pip."""
    libtpu = next(
        re.split(r'\s*;', line)[0]
        for line in importlib.metadata.requires('jax') or []
        if line.startswith('libtpu')
    )
    plugins = [f'jax-cuda13-{part}=={jax.__version__}' for part in ('plugin', 'pjrt')]
    return [*plugins, *ASSEMBLER, libtpu]


def install(folder: Path) -> None:
    """Installs the packages in a folder, about 450 MB to download.

    Raises:
      UserError: pip is missing or fails.
    """
    options = ['--no-deps', '--upgrade', '--target', str(folder)]
    command = [sys.executable, '-m', 'pip', 'install', '--quiet', *options, *requirements()]
    print(f'installing {", ".join(requirements())} in {folder}', flush=True)
    if subprocess.run(command, check=False).returncode:
        raise UserError('pip could not install the packages: its message is above')


def load(platform: str, folder: Path) -> None:
    """Makes the compiler for a platform available to JAX in this process.

    This must come before JAX chooses its back ends.

    Args:
      platform: 'gpu' or 'tpu'.
      folder: where `install` has put the packages; this environment is searched too.

    Raises:
      UserError: the packages are neither in the folder nor in this environment.
    """
    jax.config.update('jax_platforms', 'cpu')
    # libtpu would look for a TPU on the network and lock itself for one process of the machine.
    os.environ |= {
        'TPU_SKIP_MDS_QUERY': '1',
        'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
        'TPU_ACCELERATOR_TYPE': 'v5litepod-1',
        'TPU_WORKER_HOSTNAMES': 'localhost',
    }
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        is_there = importlib.util.find_spec(MODULES[platform]) is not None
    except ModuleNotFoundError:
        is_there = False
    if not is_there:
        raise UserError(
            f'the compiler for {platform.upper()}s is not installed: python '
            f'benchmarks/compile_for.py --install puts it in {folder}'
        )


def assembler(folder: Path) -> Path | None:
    """Returns the path of ptxas; None where it is not installed."""
    places = [folder, *(Path(entry) for entry in sys.path if entry)]
    files = (place / 'nvidia' / 'cu13' / 'bin' / 'ptxas' for place in places)
    return next((file for file in files if file.is_file()), None)
