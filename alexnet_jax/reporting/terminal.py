"""What a person reads on the terminal before and after a run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from alexnet_jax.config import schema
from alexnet_jax.model import alexnet, towers

FLOAT32_BYTES = 4
MADE_UP = 'MADE-UP IMAGES: only the speed means anything; the errors are of noise'


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return '\n'.join(
        '  '.join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


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
    for row in alexnet.layer_table(config):
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
    rows.append(('all', '', '', '', f'{alexnet.parameter_count(config):,}', ''))
    homes = [f'tower {t}: {names}' for t, names in enumerate(towers.device_names(mesh, count))]
    crossing = (
        'crossing: float32 bytes per image that each tower sends each other one, forward; '
        'the gradient returns by the same way (that of fc8 needs not travel)'
    )
    return '\n'.join([aligned(rows), '', crossing, *homes])


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
        aligned(rows),
        f'{speed}{alexnet.parameter_count(config):,} parameters',
        f'workdir      {workdir}',
        f'curves       tensorboard --logdir={workdir}',
    ]
    if config.dataset.name == 'synthetic':
        lines.insert(0, MADE_UP)
    return '\n'.join(lines)
