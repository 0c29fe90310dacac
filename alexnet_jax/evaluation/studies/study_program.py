"""Shared parts of the programs of studies: their flags, training, and writing the results."""

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import flags

from alexnet_jax.evaluation.studies.scheduler import train
from alexnet_jax.evaluation.studies.study import Study
from alexnet_jax.evaluation.studies.workers import Worker, divide
from alexnet_jax.runtime import atomic_files

_PARALLEL = flags.DEFINE_integer(
    'parallel',
    1,
    'Number of runs that are trained at once. The GPUs (all, or those in CUDA_VISIBLE_DEVICES) and '
    'the processor cores are divided evenly among them; with 1, a run uses all. On fewer devices a '
    'run takes longer, and computes the same but for rounding.',
    1,
    1000,
)


def workers() -> list[Worker]:
    """Returns the workers that --parallel asks for.

    Raises:
      UserError: the devices of this machine cannot be divided among so many.
    """
    return divide(_PARALLEL.value)


def run_study(study: Study, devices: list[Worker], write: Callable[[], str]) -> str:
    """Trains what is missing, and writes the table whenever a run has ended.

    Args:
      study: the runs.
      devices: the workers.
      write: writes the results so far, and returns the text of the table.

    Returns:
      The text of the table of all runs.
    """
    # Closed, it stops the runs in progress where the table cannot be written.
    with contextlib.closing(train(study, devices)) as ended:
        for _run in ended:
            write()
    return write()


def write_results(folder: Path, name: str, summary: Mapping[str, Any], text: str) -> None:
    """Writes the results of a study as NAME.json and NAME.txt in a folder."""
    with atomic_files.replace(folder / f'{name}.json') as partial:
        partial.write_text(json.dumps(summary, indent=2) + '\n')
    with atomic_files.replace(folder / f'{name}.txt') as partial:
        partial.write_text(f'{text}\n')
