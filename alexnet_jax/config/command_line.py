"""The flags of programs that train: --config, its overrides, and --settings.

There is no separate flag for each `--config.NAME=VALUE`: the names are those of the schema, and the
values are parsed by their types there. Absl's flag `config.NAME` collects them as `NAME=VALUE`.
"""

import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from alexnet_jax.config import loading, suggestions
from alexnet_jax.config.fitting.fitted_settings import Rules
from alexnet_jax.config.settings import catalogue
from alexnet_jax.config.settings_page import settings_page
from alexnet_jax.runtime.user_errors import UserError, parse_flags, report_user_errors

_OVERRIDE = re.compile(r'--?(?P<no>no)?config\.(?P<name>[^=]+)(=(?P<text>.*))?', re.DOTALL)

_CONFIG = flags.DEFINE_string(
    'config',
    'digits',
    'Config file of the run: the name of a recipe or a path. The recipes are '
    f'{", ".join(loading.recipes())}.',
)
_OVERRIDES = flags.DEFINE_multi_string(
    'config.NAME',
    [],
    'Value of one setting in place of that in the config file, by its name: '
    '--config.optimizer.batch_size=64, --config.model.conv3.then=relu,max_pooling',
)
_SETTINGS = flags.DEFINE_string(
    'settings',
    None,
    'Print all settings with their values, types, ranges and meanings, and exit; '
    '--settings=model.conv1 prints a section or one setting.',
)


def parse(arguments: list[str]) -> list[str]:
    """Parses all flags; a mistake in them ends the process with one line.

    With --settings, prints the settings and ends the process.
    """
    with report_user_errors():
        program, *rest = arguments
        try:
            # Files of flags may hold overrides too.
            rest = flags.FLAGS.read_flags_from_files(rest, force_gnu=False)
        except flags.Error as error:
            raise UserError(str(error).removeprefix('ERROR:: ')) from error
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f'the flag file cannot be read: {error}') from error
        remaining = parse_flags([program, *_collect_overrides(rest)], describe_unknown_flag)
        if _SETTINGS.value is not None:
            print(settings_page(raw(), _SETTINGS.value))
            sys.exit(0)
        return remaining


def file() -> Path:
    """Returns the path of the config file."""
    return loading.find_config(_CONFIG.value)


def is_config_given() -> bool:
    """Returns whether the command names a config file."""
    return bool(_CONFIG.present)


def raw() -> ConfigDict:
    """Returns the settings of the config file with their overrides, not yet checked."""
    settings = loading.execute(file())
    loading.override(settings, overrides())
    return settings


def rules() -> Rules | None:
    """Returns the function of the config file that fits its settings to images; None if none."""
    return loading.find_rules(file())


def overrides() -> dict[str, Any]:
    """Returns the values that replace those of the config file, by the names of their settings."""
    pairs = (override.partition('=') for override in _OVERRIDES.value)
    return {name: catalogue()[name].parse(text) for name, _, text in pairs}


def config_name() -> str:
    """Returns the name of the config as a user writes it: a recipe's name, or a path."""
    path = file()
    return path.stem if path.resolve().parent == loading.RECIPES.resolve() else str(path)


def config_arguments(without: Collection[str] = ()) -> list[str]:
    """Returns the flags that give another program these settings.

    Args:
      without: settings whose overrides are left out.
    """
    return [f'--config={config_name()}', *override_arguments(without)]


def override_arguments(without: Collection[str] = ()) -> list[str]:
    """Returns the flags of the overrides, without those of some settings."""
    pairs = [x for x in _OVERRIDES.value if x.partition('=')[0] not in without]
    return [f'--config.{pair}' for pair in pairs]


def describe_unknown_flag(error: flags.UnrecognizedFlagError) -> str:
    """Returns the message for an unknown flag, with the flag or the setting that may be meant."""
    name = error.flagname
    is_like_a_flag = 'Did you mean' in str(error)
    names = suggestions.same_name(name) or ([] if is_like_a_flag else suggestions.meant(name))
    if names:
        overrides = ' or '.join(f'--config.{setting}' for setting in names)
        return f'there is no flag --{name}: did you mean {overrides}?'
    return str(error) if is_like_a_flag else f'{error}: --help lists all flags'


def _collect_overrides(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments with each override as one value of the flag config.NAME.

    Raises:
      UserError: there is no such setting, or it has no value.
    """
    collected, rest = [], list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == '--':
            return [*collected, argument, *rest]
        has_next = bool(rest) and not rest[0].startswith('--')
        override = _OVERRIDE.fullmatch(argument)
        if _lacks_value(argument) and rest and _OVERRIDE.fullmatch(rest[0]):
            raise UserError(f'{argument} has no value: write {argument}=VALUE')
        if override:
            text = override['text']
            if text is None and has_next and not override['no']:
                text = rest.pop(0)
            argument = _override_flag(override['name'], text, bool(override['no']))
        elif argument.lstrip('-') == 'settings' and argument != 'settings':
            argument = f'--settings={rest.pop(0) if has_next else ""}'
        collected.append(argument)
    return collected


def _lacks_value(argument: str) -> bool:
    """Returns whether an argument is a flag whose value would be the next argument."""
    name = argument.lstrip('-')
    if not argument.startswith('-') or name == 'settings' or name not in flags.FLAGS:
        return False
    return not isinstance(flags.FLAGS[name], flags.BooleanFlag)


def _override_flag(name: str, text: str | None, is_negated: bool) -> str:
    if name == 'NAME':
        raise UserError('NAME in --config.NAME=VALUE stands for a setting: --settings lists them')
    if name in flags.FLAGS and name not in catalogue():
        raise UserError(f'{name} is not a setting but a flag: --{name}={text or "VALUE"}')
    loading.check_name(name)
    if text is None:
        if catalogue()[name].type is not bool:
            raise UserError(f'--config.{name} has no value: write --config.{name}=VALUE')
        text = 'false' if is_negated else 'true'
    elif is_negated:
        raise UserError(f'write --config.{name}=false in place of --noconfig.{name}={text}')
    return f'--config.NAME={name}={text}'
