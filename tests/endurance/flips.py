"""Bytes of a checkpoint flipped one at a time: each is noticed, or changes nothing.

    PYTHONPATH=tests:. python -m endurance.flips WORKDIR --count=1000

copies the newest checkpoint of a run, flips bytes of the copy, restores it after each flip, and
counts what happens. Half of the bytes are drawn from all bytes, and half from files drawn first, so
that small files are tried as well.
"""

import argparse
import collections
import contextlib
import io
import random
import shutil
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.checkpoint import Checkpoints

EQUAL, NOTICED, SILENT = 'restored with the same bits', 'noticed', 'restored with other bits'


def sample(folder, count, seed=0):
    """Yields (file, offset, mask) for bytes of all files in a folder."""
    rng = random.Random(seed)
    files = [path for path in sorted(folder.rglob('*')) if path.is_file() and path.stat().st_size]
    sizes = [path.stat().st_size for path in files]
    for i in range(count):
        file = rng.choices(files, sizes)[0] if i % 2 else rng.choice(files)
        yield file, rng.randrange(file.stat().st_size), 1 << rng.randrange(8)


@contextlib.contextmanager
def flipped(file, offset, mask):
    """Flips bits of a byte of a file for the duration of a `with` block."""
    data = file.read_bytes()
    changed = bytearray(data)
    changed[offset] ^= mask
    file.write_bytes(changed)
    try:
        yield
    finally:
        file.write_bytes(data)


def outcome(folder, shapes, state, position):
    """Restores the only checkpoint of a folder, and compares it with what was saved.

    Returns:
      EQUAL, NOTICED or SILENT, and the message.
    """
    try:
        with Checkpoints(folder, keep=None) as checkpoints:
            restored = checkpoints.restore(shapes)
    except UserError as error:
        return NOTICED, str(error)
    if restored is None:
        return NOTICED, 'no checkpoint'
    arrays, restored_position = restored
    same = restored_position == position and all(
        np.array_equal(np.asarray(a).view(np.uint8), np.asarray(b).view(np.uint8))
        for a, b in zip(jax.tree.leaves(arrays), jax.tree.leaves(state), strict=True)
        if np.ndim(a)
    )
    return (EQUAL if same and int(arrays.step) == int(state.step) else SILENT), ''


def main():
    import nets
    from alexnet_jax.training.state import state_shapes
    from alexnet_jax.training.workdir import Workdir

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('workdir', type=Path)
    parser.add_argument('--count', type=int, default=1000)
    parser.add_argument('--seed', type=int, default=0)
    arguments = parser.parse_args()
    workdir = Workdir(arguments.workdir)
    shapes = state_shapes(workdir.read_config(), nets.mesh_of(1))
    step = str(workdir.checkpoint_step())
    counts = collections.Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copytree(arguments.workdir / 'checkpoints' / step, folder / step)
        with Checkpoints(folder, keep=None) as checkpoints:
            state, position = checkpoints.restore(shapes)
        for file, offset, mask in sample(folder / step, arguments.count, arguments.seed):
            output = io.StringIO()
            with flipped(file, offset, mask), contextlib.redirect_stderr(output):
                result, message = outcome(folder, shapes, state, position)
            name = file.relative_to(folder / step)
            counts[(str(name.parent / '*') if name.parent.name == 'd' else str(name)), result] += 1
            if result == SILENT or len(message) >= 300 or 'Traceback' in output.getvalue():
                print(f'{name} at {offset} ^ {mask}: {result} {message} {output.getvalue()}')
    for (name, result), count in sorted(counts.items()):
        print(f'{count:6} {name}: {result}')
    for result in (EQUAL, NOTICED, SILENT):
        print(f'{sum(n for (_, r), n in counts.items() if r == result):6} {result}')
    sys.exit(any(result == SILENT for _, result in counts))


if __name__ == '__main__':
    main()
