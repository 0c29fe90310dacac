"""Lines about trouble that does not stop a program."""

import contextlib
import sys

_TOLD: set[str] = set()


def tell(line: str) -> None:
    """Prints a line to stderr, and ignores a stderr that cannot be written."""
    with contextlib.suppress(OSError, ValueError):
        start = '\n' if sys.stdout.isatty() else ''  # the cursor may be in the progress line
        print(f'{start}alexnet_jax: {line}', file=sys.stderr, flush=True)


def tell_once(line: str) -> None:
    """Prints a line, unless this process has printed the same line before."""
    if line not in _TOLD:
        _TOLD.add(line)
        tell(line)
