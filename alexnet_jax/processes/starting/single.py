"""Refuses to run a program of one process where a launcher has started it several times."""

import os

from alexnet_jax.processes.starting import launchers
from alexnet_jax.runtime.user_errors import UserError


def refuse_several(program: str) -> None:
    """Checks that no launcher has started this program several times.

    Each process would do the same work, and write the same files at the same time.

    Args:
      program: the name of the program, such as 'alexnet_jax.evaluate'.

    Raises:
      UserError: this is one of several processes of a launcher, or the variables of the launcher
        are incomplete.
    """
    launch = launchers.detect(os.environ)
    if launch is not None:
        raise UserError(
            f'{program} runs in one process, which uses all GPUs that it can see, and this is '
            f'process {launch.index} of {launch.count} ({launch.source}): start it once, for '
            'example with srun --ntasks=1, or set JAX_NUM_PROCESSES=1 to run it in each process'
        )
