"""A trained net as its workdir holds it: its settings, its parameters, and what it says of images.

For programs that look at a run without going on with it: evaluate.py, report.py.
"""

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import datasets, loader, model, scores, towers, train
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.config import Config
from alexnet_jax.errors import UserError
from alexnet_jax.progress import Bars
from alexnet_jax.resolve import resolve


def read_config(workdir: Path) -> Config:
    """The settings of the run in this folder.

    Raises:
      UserError: it is no run's workdir, or one of another version.
    """
    file = workdir / 'config.json'
    if not file.is_file():
        raise UserError(f'{workdir} is no workdir of a run: there is no {file}')
    try:
        raw = json.loads(file.read_text())['config']
    except (ValueError, KeyError, OSError) as error:
        raise UserError(f'{file} cannot be read: {error}') from error
    try:
        return resolve(raw)
    except UserError as error:
        raise UserError(f'{file} is not of this version: {error}') from error


class Trained:
    """The newest checkpoint of a run, on the devices that there are.

    Attributes:
      workdir: the folder of the run.
      config: its settings.
      step: training steps done.
      params: nested dict of float32 arrays, as in train.State.
      source: the images it is tested on.

    Raises:
      UserError: the folder holds no run or no checkpoint, or its data set is not here.
    """

    def __init__(self, workdir: Path, mesh: jax.sharding.Mesh | None = None) -> None:
        self.workdir, self.config = workdir, read_config(workdir)
        model.layer_table(self.config)
        if mesh is None:
            towers.prepare_cpu_devices(self.config.mesh)
            mesh = towers.choose_mesh(self.config)
        self._mesh = mesh
        self.step, self.params = self._restore()
        splits = datasets.open_splits(self.config.dataset, self.config.loader.skip_bad)
        self.source = splits.eval
        bad = loader.Bad(splits.train, self.config.loader.skip_bad)
        self._mean_HWC = train.place_constants(self.config, mesh, splits, bad).mean_HWC

    def _restore(self) -> tuple[int, Any]:
        folder = self.workdir / 'checkpoints'
        found = None
        if folder.is_dir():
            checkpoints = Checkpoints(folder, keep=None)
            found = checkpoints.restore(train.state_shapes(self.config, self._mesh))
            checkpoints.close()
        if found is None:
            raise UserError(f'{self.workdir} has no checkpoint yet: train it first, or wait')
        state, position = found
        return position.step, state.params

    def labels(self) -> np.ndarray:
        """(N,) int32: the label of every test image."""
        return np.concatenate([batch['label'][kept] for batch, kept in self._batches()])

    def probabilities(self) -> tuple[np.ndarray, np.ndarray]:
        """The softmax for the centre crop, and its mean over all test views (§4.1).

        Returns:
          Both (N, K) float32, a row for each test image.
        """
        look = scores.make_log_probabilities(self.config, self._mesh)
        views = scores.test_views(self.config)

        def of_batch(images_BHWC: jax.Array) -> tuple[np.ndarray, np.ndarray]:
            each = (look(self.params, self._mean_HWC, images_BHWC, view) for view in views)
            p = [jnp.exp(x) for x in each]
            return np.asarray(p[0]), np.asarray(functools.reduce(jnp.add, p) / len(p))

        return self._all(of_batch)

    def last_hidden(self) -> np.ndarray:
        """(N, units of all towers) float32: the last hidden layer, of the centre (§6.1)."""
        look = scores.make_last_hidden(self.config, self._mesh)
        centre = scores.test_views(self.config)[0]

        def of_batch(images_BHWC: jax.Array) -> tuple[np.ndarray]:
            return (np.asarray(look(self.params, self._mean_HWC, images_BHWC, centre)),)

        return self._all(of_batch)[0]

    def image(self, index: int) -> np.ndarray:
        """(size, size, 3) uint8: a test image, scaled and cut as the net reads it."""
        size = self.config.dataset.image_size
        image = np.empty((size, size, 3), np.uint8)
        loader.read_into(self.source, index, image, self.config.dataset.resize)
        return image

    def _all(self, of_batch: Callable[[Any], tuple[np.ndarray, ...]]) -> tuple[Any, ...]:
        """What `of_batch` gives for every test image, in order; with progress, where it is long."""
        parts, done = [], 0
        with Bars() as bars:
            for batch, kept in self._batches():
                images_BHWC = towers.put_batch(self._mesh, {'image': batch['image']})['image']
                parts.append([x[kept] for x in of_batch(images_BHWC)])
                done += int(kept.sum())
                if len(self.source) > 10_000:
                    bars.reading('testing', done, len(self.source))
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))

    def _batches(self) -> Iterator[tuple[loader.Batch, np.ndarray]]:
        """Batches of the test images, and which of their rows count."""
        reading, batch_size = loader.Reading.of(self.config), self.config.evaluation.batch_size
        for batch in loader.evaluation_batches(self.source, reading, batch_size):
            yield batch, batch['weight'] > 0
