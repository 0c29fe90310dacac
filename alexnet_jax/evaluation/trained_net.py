"""A trained net as its workdir holds it: its settings, its parameters, and what it says of images.

For programs that look at a run without going on with it: evaluate.py, report.py.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.config import schema
from alexnet_jax.config.validation import resolve
from alexnet_jax.data import images, loader, sources
from alexnet_jax.model import inference, towers
from alexnet_jax.model.layer_table import layer_table
from alexnet_jax.runtime import cpu_devices
from alexnet_jax.runtime.progress import Bars
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.checkpoint import Checkpoints
from alexnet_jax.training.state import place_constants, state_shapes

LONG = 10_000  # images from which on progress is shown
ANY_MESH = schema.Mesh(tower=0, data=0)  # chosen by the devices there are


def read_config(workdir: Path) -> schema.Config:
    """The settings of the run in this folder.

    Raises:
      UserError: it is no run's workdir, or one of another version.
    """
    file = workdir / 'config.json'
    if not file.is_file():
        raise UserError(f'{workdir} is no workdir of a run: there is no {file}')
    try:
        raw = dict(json.loads(file.read_text())['config'])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f'{file} cannot be read: {error}') from error
    try:
        return resolve(raw)
    except UserError as error:
        raise UserError(f'{file} is of another version: {error}') from error


def newest_step(workdir: Path) -> int:
    """Training steps done in the newest checkpoint of a run.

    Raises:
      UserError: there is none.
    """
    folder = workdir / 'checkpoints'
    found = None
    if folder.is_dir():
        checkpoints = Checkpoints(folder, keep=None)
        found = checkpoints.newest
        checkpoints.close()
    if found is None:
        raise UserError(f'{workdir} has no checkpoint yet: train it first, or wait')
    return found


class Truth(NamedTuple):
    """The images of a split as they are stored.

    Attributes:
      classes: names of the labels.
      names: of the images; where one is stored, if it has none.
      labels: (N,) int32.
    """

    classes: list[str]
    names: list[str]
    labels: np.ndarray


def truth(source: sources.Source) -> Truth:
    """Reads names and labels, and decodes nothing; with progress, where it is long.

    Raises:
      UserError: a record is damaged or has no label.
    """
    names, labels = [], np.empty(len(source), np.int32)
    with Bars() as bars:
        for index in range(len(source)):
            try:
                example = loader.read_labelled(source, index)
            except images.BadImage as error:
                raise loader.unreadable_error(source, index, error) from error
            names.append(example.get('name') or source.where(index))
            labels[index] = example['label']
            if len(source) > LONG and index % 100 == 0:
                bars.reading('labels', index, len(source))
    return Truth(source.classes, names, labels)


class Trained:
    """The newest checkpoint of a run, on the devices that there are.

    Args:
      workdir: the folder of the run.
      mesh: of the devices to use; None chooses by what is here, whatever it was trained on.
      config: its settings, where they are not those of the folder: images may have moved.

    Attributes:
      workdir: the folder of the run.
      config: its settings.
      mesh: where it lies.
      step: training steps done.
      params: nested dict of float32 arrays, as in train.State.
      source: the images it is tested on.

    Raises:
      UserError: the folder holds no run or no checkpoint, or its data set is not here.
    """

    def __init__(
        self,
        workdir: Path,
        mesh: jax.sharding.Mesh | None = None,
        config: schema.Config | None = None,
    ) -> None:
        self.workdir, self.config = workdir, config or read_config(workdir)
        layer_table(self.config)
        self.mesh = mesh or _mesh_of_here(self.config)
        self.step, self.params = self._restore()
        splits = sources.open_splits(self.config.dataset, self.config.loader.skip_bad)
        self.source = splits.eval
        bad = loader.UnreadableImages(splits.train, self.config.loader.skip_bad)
        self._mean_HWC = place_constants(self.config, self.mesh, splits, bad).mean_HWC

    def _restore(self) -> tuple[int, Any]:
        newest_step(self.workdir)
        checkpoints = Checkpoints(self.workdir / 'checkpoints', keep=None)
        found = checkpoints.restore(state_shapes(self.config, self.mesh))
        checkpoints.close()
        if found is None:
            raise UserError(f'the checkpoints in {self.workdir} are gone: try again')
        state, position = found
        return position.step, state.params

    def labels(self) -> np.ndarray:
        """(N,) int32: the label of every test image."""
        return truth(self.source).labels

    def probabilities(self) -> tuple[np.ndarray, np.ndarray]:
        """The softmax for the centre crop, and its mean over all test views (§4.1).

        Returns:
          Both (N, K) float32, a row for each test image.
        """
        look = inference.make_log_probabilities(self.config, self.mesh)
        views = inference.test_views(self.config)

        def of_batch(images_BHWC: jax.Array) -> tuple[np.ndarray, np.ndarray]:
            each = (look(self.params, self._mean_HWC, images_BHWC, view) for view in views)
            p = [jnp.exp(x) for x in each]
            return np.asarray(p[0]), np.asarray(functools.reduce(jnp.add, p) / len(p))

        return self._all(of_batch)

    def last_hidden(self) -> np.ndarray:
        """(N, units of all towers) float32: the last hidden layer, of the centre (§6.1)."""
        look = inference.make_last_hidden(self.config, self.mesh)
        centre = inference.test_views(self.config)[0]

        def of_batch(images_BHWC: jax.Array) -> tuple[np.ndarray]:
            return (np.asarray(look(self.params, self._mean_HWC, images_BHWC, centre)),)

        return self._all(of_batch)[0]

    def image(self, index: int) -> np.ndarray:
        """(size, size, 3) uint8: a test image, scaled and cut as the net reads it."""
        size = self.config.dataset.image_size
        image = np.empty((size, size, 3), np.uint8)
        try:
            loader.read_into(self.source, index, image, self.config.dataset.resize)
        except images.BadImage as error:
            raise loader.unreadable_error(self.source, index, error) from error
        return image

    def _all(self, of_batch: Callable[[Any], tuple[np.ndarray, ...]]) -> tuple[Any, ...]:
        """What `of_batch` gives for every test image, in order; with progress, where it is long."""
        parts, done = [], 0
        with Bars() as bars:
            for batch, kept in self._batches():
                images_BHWC = towers.put_batch(self.mesh, {'image': batch['image']})['image']
                parts.append([x[kept] for x in of_batch(images_BHWC)])
                done += int(kept.sum())
                if len(self.source) > LONG:
                    bars.reading('testing', done, len(self.source))
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))

    def _batches(self) -> Iterator[tuple[loader.Batch, np.ndarray]]:
        """Batches of the test images, and which of their rows count."""
        reading, batch_size = (
            loader.Reading.from_config(self.config),
            self.config.evaluation.batch_size,
        )
        for batch in loader.evaluation_batches(self.source, reading, batch_size):
            yield batch, batch['weight'] > 0


def _mesh_of_here(config: schema.Config) -> jax.sharding.Mesh:
    cpu_devices.prepare_cpu_devices()
    return towers.choose_mesh(dataclasses.replace(config, mesh=ANY_MESH))
