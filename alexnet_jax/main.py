"""Trains AlexNet, two towers on two devices, with the settings of a config file.

    python -m alexnet_jax.main
        the embedded digits; about a minute on two cores
    python -m alexnet_jax.main --config=ilsvrc2012 --workdir=DIR
        the paper; after a stop, the same command resumes the run
    python -m alexnet_jax.main --config=own_images --config.dataset.folder=PICTURES
        on your own images, one folder per class, with settings that are fitted to them
    python -m alexnet_jax.main --config.optimizer.epochs=30 --extend
        continues a finished or stopped run with more epochs, or another learning rate
    python -m alexnet_jax.main --from=runs/digits:270 --workdir=DIR
        starts a new run from the state that another run had after step 270
    python -m alexnet_jax.main --config.pretrained.workdir=DIR --config.dataset.folder=PICTURES ...
        fine-tunes a trained or imported net for other classes, with a folder of pictures for each
    python -m alexnet_jax.main --config=PATH --config.optimizer.batch_size=256
        a config file of one's own, with another value of a setting
    python -m alexnet_jax.main --settings
        all settings: values, types, ranges, meanings; --settings=model.conv1 for a section
    python -m alexnet_jax.main --config=ilsvrc2012 --ablate=lrn,overlapping_pooling
        without some parts of the recipe; alexnet_jax.ablations tries all of them
    python -m alexnet_jax.main --config=ilsvrc2012 --dry_run
        the settings and a table of the net, without data
    python -m alexnet_jax.main --config=PATH --find_learning_rate
        which learning rates the net can be trained with: a table, a plot and a suggestion
    python -m alexnet_jax.main --processes=2 --process=0 --coordinator=localhost:8476 ...
        as the first of two processes that train one net together; launch/local.sh starts both, and
        under Slurm, Kubernetes, Open MPI and SkyPilot these flags are not needed

Exit codes: 0 success, 2 a mistake in the command or the data (one line says which), 75 stopped by
a signal (SIGTERM, Ctrl-C, SIGHUP, SIGUSR1) and saved, 130 ended at once by a second Ctrl-C; of
several processes also 69, a process was killed, hangs, cannot be reached or has not started.
"""

import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import app, flags

from alexnet_jax.config import command_line, loading, schema
from alexnet_jax.config.ablations import ABLATIONS, ablate, check_names
from alexnet_jax.config.durations import check_length, durations
from alexnet_jax.config.validation import resolve
from alexnet_jax.data.preparation.own_images.fitting import is_fitted
from alexnet_jax.processes import group, joining, process_flags
from alexnet_jax.runtime.paths import check_path, check_writable
from alexnet_jax.runtime.printing import show
from alexnet_jax.runtime.signals import StopSignal
from alexnet_jax.runtime.user_errors import EXIT_STOPPED, UserError, list_items, report_user_errors
from alexnet_jax.training.fitted_run import fit_run
from alexnet_jax.training.run_files.divergence import record_divergence
from alexnet_jax.training.workdir import Workdir

if TYPE_CHECKING:
    import jax

    from alexnet_jax.data.preparation.catalogue import Catalogue
    from alexnet_jax.range_test.curve import Range

_WORKDIR = flags.DEFINE_string(
    'workdir',
    None,
    'Folder of the run: checkpoints, curves, config.json. A run that was stopped is resumed from '
    'its workdir. Default: runs/ and the names of the config and the ablations.',
)
_EXTEND = flags.DEFINE_bool(
    'extend',
    False,
    'Continue the run of the workdir with another optimizer.epochs, or other settings of '
    'learning_rate, from its newest checkpoint on. The change is noted in config.json.',
)
_FROM = flags.DEFINE_string(
    'from',
    None,
    'WORKDIR or WORKDIR:STEP of another run with the same net: start in an empty --workdir with '
    'its parameters, velocity and step. The other settings may differ. Default step: the newest '
    'checkpoint.',
)
_DRY_RUN = flags.DEFINE_bool(
    'dry_run', False, 'Print the checked settings and a table of the net, and exit.'
)
_FIND = flags.DEFINE_bool(
    'find_learning_rate',
    False,
    'Train for some hundred steps with a learning rate that grows from step to step, and print and '
    'plot the loss at each rate, and a suggestion. It begins with the state with which the same '
    'command would begin without this flag. Nothing in the run changes: learning_rate.html and '
    'learning_rate.csv in the workdir are all that is written.',
)
_RANGE = flags.DEFINE_list(
    'range', None, 'LOW,HIGH: the learning rates of --find_learning_rate. Default: 1e-4,1.'
)
_RANGE_STEPS = flags.DEFINE_integer(
    'range_steps', 400, 'Number of steps of --find_learning_rate.', 20, 1_000_000
)
_ABLATE = flags.DEFINE_multi_string(
    'ablate',
    [],
    'Parts of the recipe to leave out, each a claim of the paper: '
    f'{", ".join(ABLATIONS)}. They are applied after all overrides.',
)
_SKIP_BAD = flags.DEFINE_integer(
    'skip_bad',
    None,
    'Training images that may be replaced by their neighbours because they cannot be read; their '
    'names are printed at the end. Short for --config.loader.skip_bad. No test image is left out.',
    0,
)
_DETERMINISTIC = flags.DEFINE_bool(
    'deterministic',
    None,
    'On a GPU, use only deterministic algorithms, so that a resumed run ends with the same bits as '
    'an uninterrupted one. Short for --config.deterministic. Programs for other devices are '
    'deterministic in any case.',
)
flags.adopt_module_key_flags(command_line)  # --help shows them
flags.adopt_module_key_flags(process_flags)


def main(
    config: schema.Config,
    workdir: Path,
    dry_run: bool = False,
    extend: bool = False,
    source: tuple[Path, int | None] | None = None,
    catalogue: 'Catalogue | None' = None,
    rates: 'Range | None' = None,
) -> int:
    """Trains, describes the net, or tests learning rates; returns the exit code.

    Args:
      config: the settings.
      workdir: the folder of the run.
      dry_run: whether to describe the net instead of training it.
      extend: whether the run may continue with other epochs or another learning rate.
      source: the workdir and the step of the state to start from; the step None is the newest one.
      catalogue: the images of `dataset.folder`, where they have been listed already.
      rates: the learning rates of a range test, which is made in place of training; None for none.
    """
    from alexnet_jax.model import memory, towers
    from alexnet_jax.model.layer_table import layer_table
    from alexnet_jax.model.placement.mesh_table import describe_mesh, mesh_table
    from alexnet_jax.reporting import terminal
    from alexnet_jax.runtime import compilation_cache, cpu_devices
    from alexnet_jax.training import pretrained
    from alexnet_jax.training.batches import memory_plan

    layer_table(config)  # refuses sizes that do not fit, before anything is written
    compilation_cache.enable()
    processes = group.current()
    flags_of_all = {
        'workdir': str(workdir.absolute()),
        'extend': extend,
        'dry_run': dry_run,
        'from': source and [str(source[0].absolute()), source[1]],
    }
    processes.compare(flags_of_all | schema.flatten(schema.as_dict(config)))
    cpu_devices.prepare_cpu_devices(config.mesh.tower, config.mesh.data, processes.count)
    mesh = towers.choose_mesh(config)
    description = describe_mesh(config, mesh)
    description += f'; {towers.describe_arithmetic(config, mesh)}'
    hosts = processes.gather('names of the hosts', socket.gethostname())
    if table := mesh_table(config, mesh, hosts):
        description += f'\n\n{table}\n'
    memory.check(config, mesh)
    if layers := pretrained.check_workdir(config, workdir, is_new=source is None):
        description += f'\n{layers}'
    if dry_run:
        net, plan = terminal.net_table(config, mesh), memory_plan.describe(config, mesh)
        if processes.is_first:
            print(f'{description}\n{plan}\n\n{terminal.settings_text(config)}\n\n{net}')
        return 0
    show(description)
    with StopSignal(saves=rates is None) as stop:
        if rates is not None:
            from alexnet_jax.range_test import program

            return program.main(config, mesh, workdir, rates, source, stop, catalogue)
        return _train(config, mesh, Workdir(workdir), stop, extend, source, catalogue)


def _train(
    config: schema.Config,
    mesh: 'jax.sharding.Mesh',
    workdir: Workdir,
    stop: StopSignal,
    extend: bool,
    source: tuple[Path, int | None] | None,
    catalogue: 'Catalogue | None',
) -> int:
    from alexnet_jax.data import sources
    from alexnet_jax.reporting import terminal
    from alexnet_jax.training.loop import Loop

    processes = group.current()

    def check_workdir() -> dict[str, Any] | None:
        """Checks what can be checked before data are prepared, which may take hours."""
        check_writable(workdir.path, '--workdir')
        origin = _describe_source(config, mesh, workdir, source)
        workdir.check(config, extend=extend, source=origin)
        return origin

    def open_splits() -> sources.Splits:
        return sources.open_splits(config.dataset, config.loader.skip_bad, catalogue=catalogue)

    origin = processes.broadcast('checks the workdir', check_workdir)
    splits = processes.first_before_others('prepares the data set', open_splits)
    identity = splits.identity()  # hosts may have copies in different folders
    processes.compare({name: identity[name]['fingerprint'] for name in ('train', 'eval')})
    plan = durations(config, len(splits.train))
    # Before the settings are recorded: those of a refused command would bind the workdir.
    if processes.is_first and workdir.exists():
        check_length(plan, workdir.path, workdir.newest_step() or 0)
    elif processes.is_first and origin:
        check_length(plan, Path(origin['workdir']), origin['step'])
    with (
        workdir.claim(config, mesh, identity, extend=extend, source=origin) as folder,
        record_divergence(folder.path),
    ):
        loop = Loop(config, mesh, splits, plan, folder, stop)
        if loop.step:
            show(f'resuming in {workdir.path} after step {loop.step} of {plan.steps}')
        elif 'imported' in folder.read_record():
            show(f'training begins with the imported weights in {workdir.path}')
        if not loop.run():
            show(
                f'stopped by {loop.signal} after step {loop.step} of {plan.steps} and saved: '
                'the same command resumes it'
            )
            return EXIT_STOPPED
        show(f'\n{terminal.summary(config, loop.results, loop.images_per_second, workdir.path)}')
        if loop.best is not None and loop.best[0] != loop.step:
            step, error = loop.best
            show(f'best         checkpoint {step}, with a top-1 error of {error:.2%} (centre crop)')
        for verb, names in (('replaced', loop.unreadable.names), ('left out', splits.skipped)):
            if names:
                show(f'{verb:<12} {len(names)} unreadable images: {", ".join(names)}')
        return 0


def _describe_source(
    config: schema.Config,
    mesh: 'jax.sharding.Mesh',
    workdir: Workdir,
    source: tuple[Path, int | None] | None,
) -> dict[str, Any] | None:
    """Returns the state that a run starts from, as its config.json records it.

    A new run restores it once to see that it is intact and fits the net, before it is recorded.
    """
    if source is None:
        return None
    path, step = source
    if path.resolve() == workdir.path.resolve():
        raise UserError(f'--from={path} is the --workdir itself: leave out --from to resume it')
    if not workdir.exists():
        from alexnet_jax.training.state import state_shapes

        other = Workdir(path)
        other.checkpoint_step(step)  # raises a UserError where there is none
        step = other.restore(state_shapes(config, mesh), step)[1].step
    return {'workdir': str(path), 'step': step}


def _parse_source(text: str) -> tuple[Path, int | None]:
    """Returns the workdir and the step that --from gives: WORKDIR or WORKDIR:STEP."""
    path, colon, step = text.rpartition(':')
    if colon and step.isascii() and step.isdigit():
        return check_path(path, '--from'), int(step)
    return check_path(text, '--from'), None


def _rates() -> 'Range | None':
    """Returns the learning rates of a range test; None where the flags ask for none.

    Raises:
      UserError: the flags contradict each other, or other processes take part.
    """
    if not _FIND.value:
        if _RANGE.present or _RANGE_STEPS.present:
            raise UserError('--range and --range_steps belong to --find_learning_rate: add it')
        return None
    if _DRY_RUN.value:
        raise UserError('--dry_run and --find_learning_rate exclude each other: use one')
    if process_flags.launch() is not None:
        raise UserError(
            '--find_learning_rate runs in one process, which uses all devices that it can see: '
            'start it once, with --processes=1'
        )
    from alexnet_jax.range_test import curve

    return curve.parse(_RANGE.value, _RANGE_STEPS.value)


def _shorthands() -> dict[str, Any]:
    """Returns the settings that have flags of their own, where these are used.

    Raises:
      UserError: such a flag and the override of its setting differ.
    """
    flags_of_settings = {'loader.skip_bad': _SKIP_BAD, 'deterministic': _DETERMINISTIC}
    values = {
        name: flag.value for name, flag in flags_of_settings.items() if flag.value is not None
    }
    for name in values.keys() & command_line.overrides().keys():
        if values[name] != command_line.overrides()[name]:
            raise UserError(f'--{flags_of_settings[name].name} and --config.{name} differ: use one')
    return values


def _run(_: Sequence[str]) -> None:
    with report_user_errors():
        raw, shorthands = command_line.raw(), _shorthands()
        loading.override(raw, shorthands)
        fixed = command_line.overrides().keys() | shorthands.keys()
        ablations = list_items(_ABLATE.value)
        check_names(ablations)
        name = '-'.join([command_line.file().stem, *ablations])
        workdir = check_path(
            f'runs/{name}' if _WORKDIR.value is None else _WORKDIR.value, '--workdir'
        )
        source = None if _FROM.value is None else _parse_source(_FROM.value)
        rates = _rates()
        if not is_fitted(raw, command_line.rules()):
            resolve(ablate(raw, ablations))  # reports mistakes before the others are waited for
        with joining.join(
            process_flags.launch(), process_flags.start_timeout(), process_flags.hang_timeout()
        ):
            fit = fit_run(raw, fixed, command_line.rules(), workdir)
            config = resolve(ablate(fit.raw, ablations))
            if fit.notes:
                show(fit.notes)
            flags_of_run = _DRY_RUN.value, _EXTEND.value, source
            sys.exit(main(config, workdir, *flags_of_run, fit.catalogue, rates))


if __name__ == '__main__':
    sys.exit(app.run(_run, flags_parser=command_line.parse))
