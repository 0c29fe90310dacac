"""Times how long `python -m alexnet_jax.main` takes to its first training step.

    python benchmarks/start.py [--config=configs/digits.py] [--repeats=3] [--out=FILE.json]

The time runs from the command to the first line of metrics.jsonl, which is written when the first
step is done: starting Python, reading the data set, initial values, compilation, the step. 'cold'
begins with an empty compilation cache, 'warm' with the cache that the run before has filled; each
run has a new workdir. The data set is prepared before the clock starts.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from measuring import circumstances, heading, write

from alexnet_jax.runtime.text_table import align_columns
from alexnet_jax.runtime.user_errors import parse_flags

ROOT = Path(__file__).resolve().parent.parent
_CONFIG = flags.DEFINE_string('config', 'configs/digits.py', 'The config of the run.')
_SETTINGS = flags.DEFINE_list('settings', [], 'Overrides: dataset.name=synthetic,...')
_OUT = flags.DEFINE_string('out', None, 'A JSON file for the result.')
_REPEATS = flags.DEFINE_integer('repeats', 3, 'The number of cold starts, and of warm ones.', 1)


def seconds_to_first_step(folder: Path, cache: Path) -> float:
    """Starts a run, waits for its first step, and stops it.

    Args:
      folder: its workdir, which does not exist yet.
      cache: the folder of its compilation cache.
    """
    settings = ['log.every_steps=1', *_SETTINGS.value]
    command = [sys.executable, '-m', 'alexnet_jax.main', f'--config={_CONFIG.value}']
    command += [f'--workdir={folder}', *(f'--config.{setting}' for setting in settings)]
    environment = os.environ | {'JAX_COMPILATION_CACHE_DIR': str(cache)}
    with open(folder.with_suffix('.log'), 'w+') as log:
        start = time.perf_counter()
        run = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        metrics = folder / 'metrics.jsonl'
        while not (metrics.exists() and metrics.stat().st_size):
            if run.poll() is not None:
                log.seek(0)
                sys.exit(f'start.py: the run ended before its first step:\n{log.read()[-2000:]}')
            time.sleep(0.02)
        seconds = time.perf_counter() - start
        run.send_signal(signal.SIGKILL)
        run.wait()
    return seconds


def main(_: Sequence[str]) -> None:
    """Times cold and warm starts in turn, and prints the table."""
    about = circumstances(('jax', 'jaxlib', 'flax'))
    times: dict[str, list[float]] = {'cold': [], 'warm': []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds_to_first_step(folder / 'unused', folder / 'unused_cache')
        for i in range(_REPEATS.value):
            for kind in times:
                run = folder / f'{kind}_{i}'
                times[kind].append(seconds_to_first_step(run, folder / f'cache_{i}'))
    print(heading(about))
    rows: list[tuple[str, ...]] = [('to the first step', 's', 'fastest', 'slowest')]
    for kind, each in times.items():
        values = (statistics.median(each), min(each), max(each))
        rows.append((kind, *(f'{v:.1f}' for v in values)))
    print(f'\n{align_columns(rows)}')
    if _OUT.value:
        write(_OUT.value, about | {'seconds': times})


if __name__ == '__main__':
    app.run(main, flags_parser=parse_flags)
