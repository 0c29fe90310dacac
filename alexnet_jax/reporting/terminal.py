"""Tables for the terminal, printed before and after a run."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

import jax

from alexnet_jax.config import schema
from alexnet_jax.data import synthetic
from alexnet_jax.evaluation import error_rates
from alexnet_jax.model.layer_table import layer_table, parameter_count
from alexnet_jax.model.placement.mesh_table import describe_homes
from alexnet_jax.runtime.text_table import align_columns

FLOAT32_BYTES = 4


def net_table(config: schema.Config, mesh: jax.sharding.Mesh) -> str:
    """Formats the layers: sizes, parameters, and bytes per image that cross between towers."""
    header = (
        'layer',
        'across',
        'pooled',
        'maps per tower',
        'parameters',
        'bytes per image crossing',
    )
    rows: list[tuple[str, ...]] = [header]
    for row in layer_table(config):
        maps = f'{row.maps} in all' if row.name == 'fc8' else str(row.maps)
        bytes_crossing = row.crossing * FLOAT32_BYTES
        rows.append(
            (
                row.name,
                str(row.size),
                str(row.pooled) if row.pooled != row.size else '',
                maps,
                f'{row.parameters:,}',
                f'{bytes_crossing:,}' if bytes_crossing else '',
            )
        )
    rows.append(('all', '', '', '', f'{parameter_count(config):,}', ''))
    crossing = (
        'crossing: float32 bytes per image that each tower sends to every other tower in the '
        'forward pass; the gradient returns the same way (except for fc8, where it need not)'
    )
    return '\n'.join([align_columns(rows), '', crossing, *describe_homes(config, mesh)])


def settings_text(config: schema.Config) -> str:
    """Formats all settings as lines of NAME = VALUE."""
    flat = schema.flatten(schema.as_dict(config))
    return '\n'.join(f'{name} = {json.dumps(value)}' for name, value in flat.items())


def reported_errors(config: schema.Config) -> list[int]:
    """Returns each n whose top-n error is reported: with n or fewer classes it is always 0."""
    return [n for n in error_rates.TOP if n < config.dataset.classes]


def summary(
    config: schema.Config,
    results: Mapping[str, float],
    images_per_second: float,
    workdir: Path,
) -> str:
    """Formats the results at the end of a run.

    Args:
      config: its settings.
      results: of the last evaluation: 'images' and the errors as fractions.
      images_per_second: in training; 0 where it is unknown.
      workdir: the folder of the run.
    """
    top = reported_errors(config)

    def percents(prefix: str) -> list[str]:
        return [f'{results[f"{prefix}top{n}_error"]:.2%}' for n in top]

    rows = [
        (
            f'{results["images"]:.0f} {config.dataset.name_of_eval_split} images',
            *(f'top-{n} error' for n in top),
        ),
        ('centre crop', *percents('')),
    ]
    if config.views > 1:
        rows.append((f'mean of {config.views} views', *percents('views/')))
    speed = f'{images_per_second:.0f} images/s in training, ' if images_per_second else ''
    lines = [
        align_columns(rows),
        f'{speed}{parameter_count(config):,} parameters',
        f'workdir      {workdir}',
        f'curves       tensorboard --logdir={shlex.quote(str(workdir))}',
    ]
    if config.dataset.name == 'synthetic':
        lines.insert(0, synthetic.NOTICE)
    return '\n'.join(lines)
