"""The choice of the checkpoint that is restored: the one asked for, or the newest intact one."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.checkpoint import folders
from alexnet_jax.training.checkpoint.catalogue import DAMAGED, Catalogue
from alexnet_jax.training.checkpoint.digests import Damage, OtherVersion
from alexnet_jax.training.checkpoint.reading import Vanished

_Restored = TypeVar('_Restored')


def choose(
    folder: Path, catalogue: Catalogue, read: Callable[[int], _Restored], step: int | None
) -> tuple[int, _Restored] | None:
    """Reads a checkpoint, and renames those that prove to be damaged.

    Args:
      folder: the folder of all checkpoints.
      catalogue: its list of checkpoints.
      read: reads and verifies the checkpoint of a step.
      step: the step of the checkpoint; None for the newest one that is not damaged.

    Returns:
      The step and what was read; None where there has been no checkpoint.

    Raises:
      UserError: the checkpoint cannot be read, is of another version or is damaged, and so are all
        before it.
    """
    if step is not None:
        return step, _read_step(folder, catalogue, read, step)
    damaged: dict[int, Damage] = {}
    while steps := set(catalogue.steps) - damaged.keys():
        step = max(steps)
        try:
            restored = read(step)
        except Vanished:
            catalogue.reload()  # the run that is training has removed it
        except OtherVersion as error:
            raise _other_version(folder, step, error) from error
        except Damage as error:
            damaged[step] = error
        else:
            for damaged_step, damage in damaged.items():
                catalogue.set_aside(damaged_step, damage, step)
            return step, restored
    # Nothing is renamed where nothing can be used: the cause may lie elsewhere.
    reasons = [f'{step} ({damage})' for step, damage in damaged.items()]
    if reasons := reasons or [path.name for path in folders.find_renamed(folder, DAMAGED)]:
        raise UserError(
            f'no checkpoint in {folder} is intact: {", ".join(reasons[:2])}; choose another '
            '--workdir to train from the beginning'
        )
    return None


def _read_step(
    folder: Path, catalogue: Catalogue, read: Callable[[int], _Restored], step: int
) -> _Restored:
    where = f'checkpoint {step} in {folder}'
    steps = catalogue.steps
    if step not in steps:
        there = f'there are {", ".join(map(str, steps))}' if steps else 'there is none'
        raise UserError(f'{where} does not exist: {there}')
    try:
        return read(step)
    except Vanished as error:
        raise UserError(f'{where} was removed by the run that is training') from error
    except OtherVersion as error:
        raise _other_version(folder, step, error) from error
    except Damage as error:
        raise UserError(f'{where} is damaged: {error}') from error


def _other_version(folder: Path, step: int, error: OtherVersion) -> UserError:
    return UserError(f'checkpoint {step} in {folder} is of another version: {error}')
