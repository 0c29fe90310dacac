"""Checks that --workdir is on storage that all processes of a run share."""

import time
from collections.abc import Callable
from pathlib import Path

from alexnet_jax.processes import group
from alexnet_jax.runtime.user_errors import UserError

REMEDY = '--workdir must be on storage that all processes share'
SECONDS_TO_APPEAR = 10.0  # for other hosts to see a new file, on a slow network disk


def check(config_file: Path) -> None:
    """Compares the `config.json` that this process reads with the one that process 0 has written.

    All processes call it, after process 0 has written the file; the others wait for that. A network
    disk may show them the file before this, or none, for some seconds.

    Raises:
      UserError: this process sees another file, or none, after SECONDS_TO_APPEAR.
    """
    text = group.current().broadcast('opens the workdir', config_file.read_text)

    def is_visible() -> bool:
        try:
            return config_file.read_text() == text
        except OSError:
            return False

    if not wait_until(is_visible):
        raise UserError(f'{config_file} is not the file that process 0 has written there: {REMEDY}')


def wait_until(is_visible: Callable[[], bool]) -> bool:
    """Waits until this process sees files of process 0.

    Args:
      is_visible: returns whether it sees them.

    Returns:
      Whether it sees them within SECONDS_TO_APPEAR.
    """
    deadline = time.monotonic() + SECONDS_TO_APPEAR
    while not is_visible():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
