"""What the loop evaluates, saves and refuses to save, with scripted steps in place of training."""

import itertools
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nets
import runs
from alexnet_jax.config.durations import Durations
from alexnet_jax.model import towers
from alexnet_jax.runtime.signals import StopSignal
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training import loop as training_loop
from alexnet_jax.training.optimizer import Progress
from alexnet_jax.training.state import place_initial_state, state_shapes
from alexnet_jax.training.step import Hyperparameters
from alexnet_jax.training.workdir import Workdir

MESH = nets.mesh_of(1)
CONFIG = nets.small(model__width=0.03125, log__every_steps=1, checkpoint__keep=2)
PLAN = Durations(examples=80, batch_size=8, steps=10, evaluate_every=2, save_every=5)


class Script:
    """Training and evaluation that give scripted losses, errors and parameters.

    Attributes:
      losses, errors: the loss after each step, and the top-1 error at it, where they are not usual.
      spoiled: the step after which a parameter is not finite.
      at_step: called with the number of each step.
    """

    def __init__(self, losses=(), errors=(), spoiled=None, at_step=lambda step: None):
        self.losses, self.errors, self.spoiled = dict(losses), dict(errors), spoiled
        self.at_step, self.evaluations, self.step = at_step, [], 0

    def train(self, state, *_):
        self.step = int(state.step) + 1
        self.at_step(self.step)
        params = jax.tree.map(lambda x: x + 1, state.params)
        if self.step == self.spoiled:
            params['conv2']['bias_TO'] = params['conv2']['bias_TO'].at[0, 0].set(np.nan)
        metrics = {'loss': self.losses.get(self.step, 1.0), 'top1_error': 0.5}
        return state._replace(step=state.step + 1, params=params), metrics

    def evaluate(self, params, mean, batches, views, images):
        self.evaluations.append(self.step)
        error = self.errors.get(self.step, 0.5)
        if isinstance(error, Exception):
            raise error
        return {'images': 10, 'loss': error, 'top1_error': error, 'top5_error': 0.1}


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Returns a function that makes a loop with a script, in the same workdir each time."""

    def make(script, plan=PLAN, config=CONFIG, workdir=None, **arguments):
        folder = Workdir(workdir or tmp_path / 'run')
        folder.path.mkdir(exist_ok=True)
        monkeypatch.setattr(training_loop, 'make_train_step', lambda *_: script.train)
        monkeypatch.setattr(training_loop, 'make_evaluate', lambda *_: script.evaluate)
        monkeypatch.setattr(training_loop, 'read_or_write_inputs', lambda *_: None)
        constants = types.SimpleNamespace(mean_HWC=None)
        monkeypatch.setattr(training_loop, 'place_constants', lambda *_: constants)
        monkeypatch.setattr(training_loop.Loop, '_batches', lambda *_: itertools.repeat({}))
        monkeypatch.setattr(training_loop.Loop, '_show_images', lambda *_: None)
        splits = types.SimpleNamespace(train=[0] * 80, eval=[0] * 10)
        stop = arguments.pop('stop', StopSignal())
        return training_loop.Loop(config, MESH, splits, plan, folder, stop, **arguments)

    return make


def saved_steps(workdir):
    return sorted(int(p.name) for p in (workdir / 'checkpoints').iterdir() if p.name.isdigit())


def saved(workdir, step=None):
    with Workdir(workdir).open_checkpoints() as checkpoints:
        return checkpoints.restore(state_shapes(CONFIG, MESH), step)


def test_a_parameter_that_is_not_finite_is_never_saved(start, tmp_path):
    """The loss of the step that spoils it is finite, and it is the last step."""
    with pytest.raises(UserError, match=r'params\.conv2\.bias_TO holds values that are not finite'):
        start(Script(spoiled=10)).run()
    state, position = saved(tmp_path / 'run')
    assert position.step < 10
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@pytest.mark.parametrize('error', [np.nan, np.inf])
def test_a_test_loss_that_is_not_finite_ends_the_run_before_it_is_saved(start, tmp_path, error):
    with pytest.raises(UserError, match=r'the test loss is (nan|inf) at step 6, .*--extend'):
        start(Script(errors={6: error})).run()
    assert max(saved_steps(tmp_path / 'run')) == 5
    assert 'NaN' not in (tmp_path / 'run' / 'metrics.jsonl').read_text()


def test_the_advice_about_a_loss_that_is_not_finite_depends_on_what_was_saved(start, tmp_path):
    with pytest.raises(UserError, match='before anything was learned'):
        start(Script(losses={1: np.nan})).run()
    with pytest.raises(UserError, match=r'nothing was saved yet: .*--extend'):
        start(Script(losses={2: np.inf})).run()
    with pytest.raises(UserError, match=r'the checkpoint of step 5 is intact: .*--extend') as error:
        start(Script(losses={6: np.nan})).run()
    assert '\n' not in str(error.value)
    assert max(saved_steps(tmp_path / 'run')) == 5


def test_a_lower_test_error_is_saved_and_kept(start, tmp_path):
    """The newest two checkpoints are kept, and that of the lowest test error beside them."""
    start(Script(errors={2: 0.5, 4: 0.2, 6: 0.3, 8: 0.4, 10: 0.3})).run()
    assert saved_steps(tmp_path / 'run') == [4, 5, 10]
    with Workdir(tmp_path / 'run').open_checkpoints() as checkpoints:
        assert (checkpoints.best, checkpoints.best_error) == (4, 0.2)


def test_an_evaluation_that_fails_loses_no_step(start, tmp_path):
    with pytest.raises(UserError, match='test image 3'):
        start(Script(errors={8: UserError('test image 3 is damaged')})).run()
    assert max(saved_steps(tmp_path / 'run')) == 8
    script = Script()
    assert start(script).run()
    assert script.evaluations == [0, 10]  # that of step 8 first, before any new step


def test_checkpoints_by_minutes(start, tmp_path, monkeypatch):
    """They are saved when the time is up, though none is due by the epochs."""
    now = [0.0]
    clock = types.SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr(training_loop, 'time', clock)

    def wait(step):
        now[0] += 100  # seconds

    config = nets.small(
        model__width=0.03125, log__every_steps=1, checkpoint__keep=9, checkpoint__every_minutes=5.0
    )
    plan = Durations(examples=80, batch_size=8, steps=10, evaluate_every=99, save_every=99)
    start(Script(at_step=wait), plan, config).run()
    assert saved_steps(tmp_path / 'run') == [3, 6, 9, 10]


def test_a_stop_is_saved_and_the_rest_is_as_if_there_had_been_none(start, tmp_path):
    undisturbed = tmp_path / 'undisturbed'
    assert start(Script(), workdir=undisturbed).run()

    def interrupt(step):
        if step == 3:
            signal.raise_signal(signal.SIGTERM)

    with StopSignal() as stop:
        assert not start(Script(at_step=interrupt), stop=stop).run()
    assert max(saved_steps(tmp_path / 'run')) == 3
    assert start(Script()).run()
    (state, position), (other_state, other) = saved(tmp_path / 'run'), saved(undisturbed)
    assert position == other
    jax.tree.map(np.testing.assert_array_equal, state, other_state)


def test_a_run_continues_from_the_state_of_another(start, tmp_path):
    """Parameters, velocity and step are taken over, of the step that is named; and saved at once.

    So the new run can be killed right away, and resumes without the other.
    """
    other = tmp_path / 'other'
    config = nets.small(model__width=0.03125, log__every_steps=1, checkpoint__keep=9)
    start(Script(), config=config, workdir=other).run()
    plan = Durations(examples=80, batch_size=8, steps=20, evaluate_every=20, save_every=20)
    with Workdir(tmp_path / 'run').claim(CONFIG, MESH, source={'workdir': str(other), 'step': 5}):
        loop = start(Script(), plan)
    assert loop.step == 5
    assert saved_steps(tmp_path / 'run') == [5]
    assert loop.run()
    state, position = saved(tmp_path / 'run')
    assert position.step == 20
    initial = place_initial_state(CONFIG, MESH)
    np.testing.assert_allclose(
        state.params['conv1']['bias_TO'], initial.params['conv1']['bias_TO'] + 20
    )
    assert max(line['step'] for line in Workdir(tmp_path / 'run').read_metrics()) == 20


def test_a_run_that_is_longer_than_its_settings_is_refused(start, tmp_path):
    start(Script()).run()
    plan = Durations(examples=80, batch_size=8, steps=9, evaluate_every=2, save_every=5)
    with pytest.raises(UserError, match=r'has done 10 steps, .* 9: .*epochs to more than 1\.00'):
        start(Script(), plan)
    assert saved_steps(tmp_path / 'run')[-1] == 10


def test_after_a_loss_that_is_not_finite_an_earlier_checkpoint_is_named_too(start, tmp_path):
    """The newest one may hold finite values that are too large to continue from."""
    with pytest.raises(UserError, match=r'checkpoint of step 5 is intact: ') as error:
        start(Script(losses={6: np.nan}, errors={2: 0.1})).run()
    assert f'--from={tmp_path / "run"}:2 with another --workdir' in str(error.value)
    assert saved_steps(tmp_path / 'run') == [2, 5]


def test_a_signal_while_a_finished_run_is_evaluated_again_stops_it(start, tmp_path):
    """There are no results to print then."""
    assert start(Script()).run()

    class Interrupted(Script):
        def evaluate(self, *_):
            raise training_loop._Interrupted

    assert not start(Interrupted()).run()
    loop = start(Script())
    assert loop.run()
    assert loop.results['images'] == 10


def test_the_results_of_a_finished_run_are_logged_again_if_the_log_has_lost_them(start, tmp_path):
    assert start(Script()).run()
    run = Workdir(tmp_path / 'run')
    before = [line for line in run.read_metrics() if 'eval/loss' in line]
    assert start(Script()).run()
    assert [line for line in run.read_metrics() if 'eval/loss' in line] == before  # not twice
    (tmp_path / 'run' / 'metrics.jsonl').unlink()
    assert start(Script()).run()
    assert run.read_metrics() == before[-1:]


def test_nonfinite_arrays_are_named():
    state = place_initial_state(CONFIG, MESH)
    assert training_loop.find_nonfinite(state) == []
    velocity = jax.tree.map(lambda x: x.at[...].set(jnp.inf) if x.ndim == 2 else x, state.velocity)
    names = training_loop.find_nonfinite(state._replace(velocity=velocity))
    assert names
    assert all(name.startswith('velocity') for name in names)


def read_behind(monkeypatch, steps):
    """Lets the loop read metrics this many steps later."""
    monkeypatch.setattr(training_loop, 'STEPS_BEHIND_ON_CPU', steps)


@pytest.mark.parametrize('step', [1, 4, 5, 8, 10])
def test_a_loss_that_is_not_finite_is_noticed_before_anything_is_saved(
    start, tmp_path, monkeypatch, step
):
    """Such a step is neither evaluated, nor logged, nor saved, although metrics are read later."""
    read_behind(monkeypatch, 4)
    script = Script(losses={step: np.nan})
    with pytest.raises(UserError, match=f'the loss is nan at step {step},'):
        start(script).run()
    run = Workdir(tmp_path / 'run')
    reached = {*saved_steps(run.path), *script.evaluations}
    assert max(reached | {line['step'] for line in run.read_metrics()}, default=0) < step
    assert script.step <= step + 5  # the steps that were dispatched meanwhile


def test_metrics_that_are_read_later_are_the_same(start, tmp_path, monkeypatch):
    """The log, evaluations and checkpoints are those of a loop that reads each step at once."""
    numbers = np.random.default_rng(0).uniform(0.1, 5, 14).astype(np.float32)
    losses, errors = dict(enumerate(numbers)), {4: 0.4, 8: 0.6, 12: 0.3}
    config = nets.small(model__width=0.03125, log__every_steps=3, checkpoint__keep=2)
    plan = Durations(examples=104, batch_size=8, steps=13, evaluate_every=4, save_every=9)
    results = []
    for steps in (0, 1, 4):
        read_behind(monkeypatch, steps)
        workdir = tmp_path / str(steps)
        assert start(Script(losses, errors), plan, config, workdir).run()
        results.append((runs.metrics(workdir), saved_steps(workdir), saved(workdir)[1]))
    assert results[1:] == results[:1] * 2
    logged = [line['step'] for line in results[0][0]]
    assert logged == [3, 4, 6, 8, 9, 12, 12, 13, 13]


def test_metrics_are_read_a_stated_number_of_steps_behind(start, monkeypatch):
    """An error that a loss causes is raised after so many more steps, unless something is due."""
    plan = Durations(examples=800, batch_size=8, steps=100, evaluate_every=50, save_every=50)
    for steps in (0, 1, 4):
        read_behind(monkeypatch, steps)
        script = Script(losses={20: np.nan})
        with pytest.raises(UserError, match='the loss is nan at step 20,'):
            start(script, plan).run()
        assert script.step == 20 + steps


def test_hyperparameters_are_copied_to_the_devices_only_when_they_change(start, monkeypatch):
    """The call of the step itself copies nothing from the host to the devices."""
    config = nets.small(
        model__width=0.03125,
        learning_rate__steps=dict(divide_by=10.0, epochs=(0.35, 0.75)),
        augmentation__colour=dict(noise='root', deviation=0.1, divide=True, until_epoch=0.55),
    )
    sent, steps, put = [], [], towers.put_replicated

    def count(mesh, x):
        sent.append(x)
        return put(mesh, x)

    monkeypatch.setattr(towers, 'put_replicated', count)
    program = jax.jit(lambda numbers: numbers + numbers)

    class Guarded(Script):
        def train(self, state, batch, constants, numbers):
            with jax.transfer_guard_host_to_device('disallow_explicit'):
                program(numbers)
            steps.append(np.asarray(numbers))
            return super().train(state)

    assert start(Guarded(), config=config).run()
    expected = [Hyperparameters.at(config, step / 10, Progress()).pack() for step in range(10)]
    np.testing.assert_array_equal(steps, expected)
    np.testing.assert_array_equal(sent, [expected[step] for step in (0, 4, 6, 8)])
