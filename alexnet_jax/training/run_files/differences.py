"""Compares the recorded settings and images of a run with other ones, in words for a message."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from alexnet_jax.config import schema
from alexnet_jax.runtime.printing import list_names
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.run_files import config_file


def changes(
    recorded: Mapping[str, Any], config: schema.Config, matters: Callable[[str], bool]
) -> dict[str, list[Any]]:
    """Returns the recorded and the new value of each setting that differs and matters."""
    old, new = schema.flatten(recorded), schema.flatten(config_file.plain(config))
    return {
        name: [old[name], new[name]]
        for name in sorted(new)
        if old[name] != new[name] and matters(name)
        if config_file.has_effect(name, old) or config_file.has_effect(name, new)
    }


def changes_training(name: str) -> bool:
    """Checks whether a run with another value of this setting is trained differently."""
    return not schema.may_change(name)


def changes_a_result(name: str) -> bool:
    """Checks whether a run with another value of this setting has another last result."""
    is_evaluation = name.startswith('evaluation.') and name != 'evaluation.batch_size'
    return is_evaluation or changes_training(name)


def describe(changes: Mapping[str, list[Any]]) -> str:
    """Names the first changes in a few words: the recorded values and the new ones."""
    return list_names([f'{name}={old} (now {new})' for name, (old, new) in changes.items()], 3)


def data_difference(split: str, recorded: Any, current: Any) -> str:
    """Says how the images of a split differ from those that are recorded; '' if they do not.

    Only what both record is compared.
    """
    if not isinstance(recorded, Mapping) or not isinstance(current, Mapping):
        return ''
    differing = [x for x in recorded.keys() & current.keys() if recorded[x] != current[x]]
    if 'images' in differing:
        return f'{split}: {recorded["images"]:,} images then, {current["images"]:,} now'
    return f'{split}: other images, as many' if differing else ''


def data_differences(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Says how the images differ from those that are recorded, for each split that does.

    The fingerprint of a split changes with any image of the data set. Where the lists of the images
    tell which split has changed, the other one is left out.
    """
    reasons = {
        split: data_difference(split, recorded.get(split), current.get(split))
        for split in ('train', 'eval')
    }
    differing = [split for split, reason in reasons.items() if reason]
    changed = [split for split in differing if not _same_list(recorded[split], current[split])]
    return [reasons[split] for split in changed or differing]


def _same_list(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
    """Checks whether both record the same names, labels and sizes of a split's images."""
    return 'list' in recorded and recorded['list'] == current.get('list')


def name_source(source: Mapping[str, Any]) -> str:
    """Names the state of another run in a few words."""
    step = source.get('step')
    return f'{source.get("workdir")}' + ('' if step is None else f' after step {step}')


def check_source(
    workdir: Path, recorded: Mapping[str, Any] | None, source: Mapping[str, Any] | None
) -> None:
    """Raises a UserError if the run in a workdir was started from another state than `source`."""
    if source is None or (
        recorded is not None
        and recorded.get('workdir') == source['workdir']
        and source.get('step') in (None, recorded.get('step'))
    ):
        return
    origin = 'its own initial state' if recorded is None else name_source(recorded)
    raise UserError(
        f'{workdir} is a run that was started from {origin}, not from {name_source(source)}: leave '
        'out --from to resume it, or choose another --workdir'
    )
