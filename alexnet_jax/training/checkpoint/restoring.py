"""The contents of one checkpoint, verified: its state and position, or its parameters alone."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from alexnet_jax.model.parameters import leaves_by_name
from alexnet_jax.runtime.printing import warn
from alexnet_jax.runtime.user_errors import UserError, first_line
from alexnet_jax.training.checkpoint import reading
from alexnet_jax.training.checkpoint.digests import Damage, Digests, OtherVersion
from alexnet_jax.training.checkpoint.position import Position


def read_state(folder: Path, step: int, shapes: Any) -> tuple[Any, Position]:
    """Reads a checkpoint, verifies it, and places its state on the devices.

    Args:
      folder: the folder of all checkpoints.
      step: the step of this one.
      shapes: the shapes, dtypes and shardings of the state.

    Returns:
      The state, and the position.

    Raises:
      Damage: the checkpoint does not hold what was saved.
      OtherVersion: it is intact, and has another format.
      Vanished: it has been removed.
      UserError: it is of another net, or the system cannot read it.
    """
    step_folder, target = folder / str(step), shapes._asdict()
    digests = reading.read_digests(step_folder)
    stored = digests.arrays if digests else leaves_by_name(reading.stored_tree(step_folder))
    _check_shapes(step_folder, stored, leaves_by_name(target))
    # Global arrays on the host, whatever their sharding: a digest is that of a global array.
    arrays, position = _read(step_folder, target, digests)
    try:
        # Not `device_put`: with several processes, it would compare the values of all of them.
        placed = jax.tree.map(
            lambda x, shape: jax.make_array_from_callback(
                x.shape, shape.sharding, lambda index: x[index]
            ),
            arrays,
            target,
        )
        return type(shapes)(**jax.block_until_ready(placed)), position
    except Exception as error:
        if trouble := reading.trouble_of_system(error):
            raise UserError(f'the devices cannot hold checkpoint {step}: {trouble}') from error
        raise


def read_params(folder: Path, step: int) -> dict[str, Any]:
    """Reads the parameters of a checkpoint, whatever their shapes are, and verifies them.

    Returns:
      A nested dict of NumPy arrays.

    Raises:
      Damage, OtherVersion, Vanished, UserError: as for `read_state`.
    """
    step_folder = folder / str(step)
    digests = reading.read_digests(step_folder)
    tree = _nested(digests.arrays) if digests else reading.stored_tree(step_folder)
    arrays, _ = _read(step_folder, {name: tree[name] for name in ('step', 'params')}, digests)
    return arrays['params']


def verify(step_folder: Path, target: Any, digests: Digests) -> None:
    """Reads a checkpoint back and compares it with what was in memory when it was saved.

    Args:
      step_folder: the folder of the checkpoint.
      target: a dict like the state, of ShapeDtypeStruct.
      digests: those of what was in memory.

    Raises:
      Damage, OtherVersion, Vanished, UserError: as for `read_state`.
    """
    if reading.read_digests(step_folder) != digests:
        raise Damage('its digests differ from what was saved')
    if not digests.allow_position(reading.read_json(step_folder, reading.POSITION)):
        raise Damage('its position differs from what was saved')
    for name, part in target.items():  # in parts, so that the host holds less at once
        digests.check_arrays(reading.read_arrays(step_folder, {name: part}))


def _read(step_folder: Path, target: Any, digests: Digests | None) -> tuple[Any, Position]:
    """Reads arrays and the position, and verifies them; `target` includes the step."""
    values = reading.read_json(step_folder, reading.POSITION)
    if digests and not digests.allow_position(values):
        # The run that is training may have replaced the position between the two reads.
        digests = reading.read_digests(step_folder)
    if digests and not digests.allow_position(values):
        raise Damage('its position differs from what was saved')
    try:
        position = Position.from_json(values)
    except ValueError as error:
        # A position that is as it was saved is not damaged.
        raise (OtherVersion if digests else Damage)(first_line(error)) from error
    arrays = reading.read_arrays(step_folder, target)
    if digests:
        digests.check_arrays(arrays)
    if not np.array_equal(arrays['step'], position.step) or str(position.step) != step_folder.name:
        raise Damage(f'its state is of step {arrays["step"]}, its position of {position.step}')
    if not digests:
        warn(
            f'checkpoint {step_folder.name} is of an earlier version without digests: it was not '
            'verified'
        )
    return arrays, position


def _check_shapes(step_folder: Path, stored: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises a UserError where the net that was saved has other arrays than the one expected.

    Such a checkpoint is not damaged, and is left as it is.
    """
    for name in sorted(stored.keys() | expected.keys()):
        stored_form, expected_form = _form(stored.get(name)), _form(expected.get(name))
        if stored_form != expected_form:
            raise UserError(
                f'checkpoint {step_folder.name} in {step_folder.parent} is of another net or '
                f'version: {name} is {stored_form}, not {expected_form}'
            )


def _form(array: Any) -> str:
    """Describes an array, its digest or its metadata, such as 'float32 of the shape (10,)'."""
    if array is None:
        return 'missing'
    return f'{np.dtype(array.dtype)} of the shape {tuple(array.shape)}'


def _nested(arrays: dict[str, Any]) -> dict[str, Any]:
    """Returns the tree with these dotted names, as nested dicts of ShapeDtypeStruct."""
    tree: dict[str, Any] = {}
    for name, digest in arrays.items():
        *sections, last = name.split('.')
        inner = tree
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = jax.ShapeDtypeStruct(digest.shape, np.dtype(digest.dtype))
    return tree
