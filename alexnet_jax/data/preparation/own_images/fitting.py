"""Fits the settings of a config to the images that it is about to be trained on (§2, §5)."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from alexnet_jax.config import loading, schema
from alexnet_jax.config.fitting import fitted_settings
from alexnet_jax.config.fitting.fitted_settings import Rules
from alexnet_jax.config.validation import check_values, resolve
from alexnet_jax.data.preparation.catalogue import Catalogue
from alexnet_jax.processes import group
from alexnet_jax.runtime.paths import check_path
from alexnet_jax.runtime.progress import ProgressBars
from alexnet_jax.runtime.user_errors import UserError

_CLASSES = 'dataset.classes'


class Fitted(NamedTuple):
    """Settings that are fitted to the images, and what the user is told about it.

    Attributes:
      raw: nested settings, complete.
      notes: lines about the images, and the table of settings with their reasons; '' for none.
      catalogue: the images of the folder, where this process has listed them.
    """

    raw: ConfigDict
    notes: str
    catalogue: Catalogue | None = None


def is_fitted(raw: ConfigDict, rules: Rules | None) -> bool:
    """Checks whether some settings follow from the images: those of rules, or 0 classes."""
    return rules is not None or not schema.flatten(raw).get(_CLASSES, 1)


def fit_config(
    raw: ConfigDict,
    fixed: Collection[str],
    rules: Rules | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> Fitted:
    """Returns settings of which those that follow from the images have their values.

    These are `dataset.classes` where it is 0, and the settings of the config file's own rules. All
    processes that train together get the same values: process 0 looks at the images.

    Args:
      raw: nested settings, with the overrides of the user; not changed.
      fixed: the settings that the user has overridden.
      rules: the function `fit` of the config file; None if it has none.
      recorded: the settings of a run that is resumed, whose values are taken: the images may be
        other ones by now, which is noticed later.

    Raises:
      Stopped: a signal asked this process to stop.
      UserError: the images cannot be listed or read, a rule fails, or a setting is wrong.
    """
    if not is_fitted(raw, rules):
        return Fitted(raw, '')
    check_values(raw)  # rules divide by settings, and listing the images may take minutes
    catalogues: list[Catalogue] = []

    def fit() -> tuple[dict[str, Any], str]:
        if recorded is not None:
            fitted = _as_recorded(raw, fixed, rules, recorded)
        else:
            fitted = _fit_to_images(raw, fixed, rules)
        if fitted.catalogue:
            catalogues.append(fitted.catalogue)
        before, after = schema.flatten(raw), schema.flatten(fitted.raw)
        return {name: x for name, x in after.items() if x != before[name]}, fitted.notes

    values, notes = group.current().broadcast('looks at the images', fit)
    config = raw.copy_and_resolve_references()
    loading.override(config, values)
    return Fitted(config, notes, catalogues[0] if catalogues else None)


def _as_recorded(
    raw: ConfigDict, fixed: Collection[str], rules: Rules | None, recorded: Mapping[str, Any]
) -> Fitted:
    """Returns the settings of a run that is resumed."""
    names = fitted_settings.names_of_fitted(raw, rules, fixed) if rules else []
    if not schema.flatten(raw)[_CLASSES]:
        names = [*names, _CLASSES]
    config = fitted_settings.use_recorded(raw, names, recorded)
    note = 'the settings that are fitted to the images are those of the run that is resumed'
    return Fitted(config, note if rules else '')


def _fit_to_images(raw: ConfigDict, fixed: Collection[str], rules: Rules | None) -> Fitted:
    # Imported here, as TFDS takes a second: a mistake in the settings is reported before.
    from alexnet_jax.data import sources
    from alexnet_jax.data.preparation.own_images import class_folders, description, survey

    config = raw.copy_and_resolve_references()
    folder = schema.flatten(config)['dataset.folder']
    if not folder:
        if rules:
            raise UserError(
                'the settings of this config are fitted to a folder of images: set '
                '--config.dataset.folder=DIR'
            )
        loading.override(config, {_CLASSES: sources.count_classes(resolve(config).dataset)})
        return Fitted(config, '')
    with ProgressBars() as bars:
        catalogue = class_folders.list_images(check_path(folder, '--config.dataset.folder'))
        number = len(catalogue.classes)
        if not schema.flatten(config)[_CLASSES]:
            loading.override(config, {_CLASSES: number})
        notes = [description.describe(catalogue, folder)]
        if rules:
            images = survey.survey(catalogue, bars)
            notes.append(survey.describe(images))
            config, rows = fitted_settings.fit_settings(config, rules, images, fixed)
            reason = 'as many as there are'
            if _CLASSES in fixed:
                number = schema.flatten(config)[_CLASSES]
                reason = fitted_settings.SET_BY_USER
            classes = fitted_settings.FittedSetting(_CLASSES, number, reason)
            notes.append(f'\n{fitted_settings.settings_table([classes, *rows])}\n')
        notes.insert(1, description.describe_use(resolve(config).dataset))
    return Fitted(config, '\n'.join(notes), catalogue)
