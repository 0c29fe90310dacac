"""Config files: found by name or path, executed, and overridden."""

import difflib
import runpy
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from alexnet_jax.config import suggestions
from alexnet_jax.config.schema import Config
from alexnet_jax.config.settings import catalogue, sections
from alexnet_jax.config.validation import resolve
from alexnet_jax.runtime.paths import check_path
from alexnet_jax.runtime.user_errors import UserError

_LONG = 200  # characters of an error
RECIPES = Path(__file__).parents[1] / 'configs'  # those of this package


def load_config(
    name_or_path: str | Path = 'digits',
    overrides: Mapping[str, Any] | None = None,
    /,
    **more_overrides: Any,
) -> Config:
    """Returns the checked settings of a config file.

        load_config('digits', optimizer__batch_size=32)
        load_config('~/my_config.py', {'optimizer.batch_size': 32})

    Args:
      name_or_path: a recipe of `alexnet_jax/configs`, such as 'ilsvrc2012', or the path of a
        Python file with a function `get_config()`.
      overrides: values by the dotted names of their settings.
      more_overrides: the same, with two underscores in place of each dot.

    Raises:
      UserError: there is no such file, it cannot be executed, or a setting is unknown, missing, of
        the wrong type or out of range.
    """
    raw = execute(find_config(str(name_or_path)))
    override(raw, overrides or {})
    override(raw, {name.replace('__', '.'): value for name, value in more_overrides.items()})
    return resolve(raw)


def recipes() -> list[str]:
    """Returns the names of the recipes of this package."""
    return sorted(path.stem for path in RECIPES.glob('*.py') if path.stem != '__init__')


def find_config(name_or_path: str) -> Path:
    """Returns the path of a config file.

    Args:
      name_or_path: a recipe, 'digits'; the path of a file; or the path of a recipe in the checkout,
        'configs/digits.py', from any folder.

    Raises:
      UserError: there is no such file.
    """
    names = recipes()
    if name_or_path in names:
        return RECIPES / f'{name_or_path}.py'
    path = check_path(name_or_path, '--config')
    if path.is_file():
        return path
    is_recipe = path.suffix == '.py' and path.parent in (Path('.'), Path('configs'))
    if is_recipe and path.stem in names:
        return RECIPES / path.name
    near = difflib.get_close_matches(path.stem, names, n=1, cutoff=0.7)
    hint = f'did you mean {near[0]}? ' if near else ''
    raise UserError(
        f'there is no config file {name_or_path!r}: {hint}'
        f'the recipes are {", ".join(names)}; any other file is given by its path'
    )


def execute(path: Path) -> ConfigDict:
    """Returns the settings that a config file states, not yet checked.

    Raises:
      UserError: the file cannot be executed, or gives no settings.
    """
    names, raw = _run(path)
    if not names.get('get_config'):
        raise UserError(f'{path} is not a config file: it has no function get_config()')
    if isinstance(raw, FrozenConfigDict):
        raw = ConfigDict(raw)  # pyrefly: ignore[bad-argument-type]
    if not isinstance(raw, ConfigDict):
        raise UserError(f'get_config() in {path} must return an ml_collections.ConfigDict')
    return raw.copy_and_resolve_references()


def find_rules(path: Path) -> Callable[..., Any] | None:
    """Returns the function `fit` of a config file, which fits its settings to images.

    Returns:
      The function; None if the file has none. See `fitting.fitted_settings`.

    Raises:
      UserError: the file cannot be executed.
    """
    rules = _run(path)[0].get('fit')
    return rules if callable(rules) else None


def _run(path: Path) -> tuple[dict[str, Any], Any]:
    """Runs a config file; returns the names that it defines, and what get_config() returns."""
    try:
        names = runpy.run_path(str(path))
        return names, names['get_config']() if names.get('get_config') else None
    except (Exception, SystemExit) as error:  # whatever the user's file may raise
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if _is(f, path)]
        where = f'{path}, line {lines[-1]},' if lines else str(path)
        kind = type(error).__name__
        raise UserError(f'{where} cannot be executed: {kind}: {_gist(error)}') from error


def _gist(error: BaseException) -> str:
    """Returns an error's text in one line; of a long one the last line, which says the most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = ' '.join(lines)
    return (text if len(text) <= _LONG else lines[-1][-_LONG:]) or type(error).__name__


def override(raw: ConfigDict, values: Mapping[str, Any]) -> None:
    """Replaces settings in place.

    Args:
      raw: nested settings, as `execute` gives them.
      values: new values by the dotted names of their settings.

    Raises:
      UserError: there is no such setting.
    """
    for name, value in values.items():
        check_name(name)
        *path, last = name.split('.')
        section = raw
        for part in path:
            section = section.get(part)
            if not isinstance(section, ConfigDict):
                raise UserError(f'the config lacks the section {part} of {name}: add it')
        with section.unlocked(), section.ignore_type():
            section[last] = value


def check_name(name: str) -> None:
    """Checks that there is a setting of this name.

    Raises:
      UserError: there is none; the message names the setting that may be meant.
    """
    if name in sections():
        members = [x for x in catalogue() if x.startswith(f'{name}.')]
        alias = suggestions.meant(name)
        hint = f'did you mean {alias[0]}?' if alias else f'such as {members[0]}'
        raise UserError(f'{name} is a section with settings of its own: {hint}')
    if name not in catalogue():
        raise UserError(f'unknown setting {name}: {suggestions.hint(name)}')


def _is(frame: traceback.FrameSummary, path: Path) -> bool:
    return frame.filename == str(path)
