"""Fits the settings of a run to its images; a run that has begun keeps those of its start (§5)."""

from collections.abc import Collection
from pathlib import Path

from ml_collections import ConfigDict

from alexnet_jax.config.fitting.fitted_settings import Rules
from alexnet_jax.data.preparation.own_images.fitting import Fitted, fit_config, is_fitted
from alexnet_jax.processes import group
from alexnet_jax.training.workdir import Workdir


def fit_run(raw: ConfigDict, fixed: Collection[str], rules: Rules | None, workdir: Path) -> Fitted:
    """Returns the settings of a run; those that follow from the images are read from its workdir.

    Where no run has begun, they are fitted to the images that there are now. See `fit_config`;
    ablations are applied later, to what is fitted.

    Args:
      raw: nested settings, with the overrides of the user; not changed.
      fixed: the settings that the user has overridden.
      rules: the function `fit` of the config file; None if it has none.
      workdir: the folder of the run; it need not exist.

    Raises:
      Stopped: a signal asked this process to stop.
      UserError: as from `fit_config`, or the record of the run cannot be read.
    """
    run, recorded = Workdir(workdir), None
    if is_fitted(raw, rules) and group.current().is_first and run.exists():
        recorded = run.read_record()['config']
    return fit_config(raw, fixed, rules, recorded)
