"""What a person reads on the terminal before and after a run."""

import json
from collections.abc import Mapping
from pathlib import Path

import jax

from alexnet_jax.config import schema
from alexnet_jax.data import synthetic
from alexnet_jax.model import towers
from alexnet_jax.model.layer_table import layer_table, parameter_count
from alexnet_jax.runtime.text_table import align_columns

FLOAT32_BYTES = 4


def net_table(config: schema.Config, mesh: jax.sharding.Mesh) -> str:
    """The layers: sizes, parameters, and what crosses between towers, in bytes per image."""
    count = config.model.towers
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
    homes = [f'tower {t}: {names}' for t, names in enumerate(towers.device_names(mesh, count))]
    crossing = (
        'crossing: float32 bytes per image that each tower sends each other one, forward; '
        'the gradient returns by the same way (that of fc8 needs not travel)'
    )
    return '\n'.join([align_columns(rows), '', crossing, *homes])


def resolved(config: schema.Config) -> str:
    """The settings as lines of name and value."""
    flat = schema.flatten(schema.as_dict(config))
    return '\n'.join(f'{name} = {json.dumps(value)}' for name, value in flat.items())


def summary(
    config: schema.Config,
    results: Mapping[str, float],
    images_per_second: float,
    workdir: Path,
) -> str:
    """The table at the end of a run."""

    def percent(name: str) -> str:
        return f'{results[name]:.2%}'

    rows = [
        (f'{results["images"]:.0f} test images', 'top-1 error', 'top-5 error'),
        ('centre crop', percent('top1_error'), percent('top5_error')),
    ]
    if config.views > 1:
        both = percent('views/top1_error'), percent('views/top5_error')
        rows.append((f'mean of {config.views} views', *both))
    speed = f'{images_per_second:.0f} images/s in training, ' if images_per_second else ''
    lines = [
        align_columns(rows),
        f'{speed}{parameter_count(config):,} parameters',
        f'workdir      {workdir}',
        f'curves       tensorboard --logdir={workdir}',
    ]
    if config.dataset.name == 'synthetic':
        lines.insert(0, synthetic.NOTICE)
    return '\n'.join(lines)
