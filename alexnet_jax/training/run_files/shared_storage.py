"""Whether all processes of a run have the same workdir."""

from pathlib import Path

from alexnet_jax.processes import group
from alexnet_jax.runtime.user_errors import UserError


def check(config_file: Path) -> None:
    """Compares the `config.json` that this process reads with the one that process 0 has written.

    All processes call it, after process 0 has written the file; the others wait for that.

    Raises:
      UserError: this process has another file, or none.
    """
    text = group.current().broadcast('opens the workdir', config_file.read_text)
    try:
        own_text = config_file.read_text()
    except OSError:
        own_text = None
    if own_text != text:
        raise UserError(
            f'{config_file.parent} is not the folder that process 0 has there: choose a --workdir '
            'on storage that all hosts share'
        )
