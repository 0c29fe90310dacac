"""Compares the files of a disturbed run with those of an undisturbed one."""

import math

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import runs
from alexnet_jax.training.workdir import Workdir


def differences(workdir, undisturbed):
    """Lists what a finished run has left that an undisturbed run of these settings has not.

    Compared are the parameters, the velocity and the step of the newest checkpoint; the lines of
    metrics.jsonl, without the speed; and each run's curves in TensorBoard with its metrics.jsonl.
    """
    problems = []
    (step, state), (expected_step, expected) = runs.final(workdir), runs.final(undisturbed)
    if step != expected_step:
        problems.append(f'step {step} in place of {expected_step}')
    problems += [
        f'{name} differs'
        for name in sorted(state.keys() | expected.keys())
        if not np.array_equal(state[name], expected[name])
    ]
    if runs.metrics(workdir) != runs.metrics(undisturbed):
        problems.append('metrics.jsonl differs')
    return problems + curve_differences(workdir)


def curve_differences(workdir):
    """Lists the curves of a run that are not those of its metrics.jsonl, point by point."""
    accumulator = EventAccumulator(str(workdir), size_guidance={'scalars': 0}).Reload()
    curves = {
        tag: [(point.step, point.value) for point in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()['scalars']
    }
    expected = {}
    for line in Workdir(workdir).read_metrics():
        for name, value in line.items():
            if name != 'step' and value is not None and math.isfinite(value):
                expected.setdefault(name, []).append((line['step'], float(np.float32(value))))
    return [
        f'the curve of {name} has {len(curves.get(name, []))} points, not the '
        f'{len(expected.get(name, []))} of metrics.jsonl'
        for name in sorted(curves.keys() | expected.keys())
        if curves.get(name) != expected.get(name)
    ]
