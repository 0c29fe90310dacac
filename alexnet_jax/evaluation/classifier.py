"""A trained net that classifies pictures, with the names of its classes (§4.1, §6.1)."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import jax
import numpy as np

from alexnet_jax.config import schema
from alexnet_jax.data.images import BadImage
from alexnet_jax.evaluation import error_rates, pictures
from alexnet_jax.evaluation.pictures import Picture, as_series, map_ahead
from alexnet_jax.evaluation.trained_net import NEWEST, Checkpoint, read_inputs, restore
from alexnet_jax.model import inference, towers
from alexnet_jax.model.net import Net
from alexnet_jax.runtime.paths import check_path
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.run_files.inputs_file import Inputs
from alexnet_jax.training.workdir import Workdir

VIEWS = (1, 5, 10)  # of each picture that can be averaged (§4.1)
_BATCH_OF_CPU = 32  # images: larger batches are not faster there, and smaller ones start sooner


def load(
    workdir: Path | str,
    *,
    mesh: jax.sharding.Mesh | None = None,
    checkpoint: Checkpoint = NEWEST,
) -> 'Classifier':
    """Loads a checkpoint of a run, by default the newest; its data set is not needed.

    Args:
      workdir: the folder of the run.
      mesh: the devices to place the parameters on; None chooses them from this machine's, whatever
        the net was trained on.
      checkpoint: 'newest'; 'best', the one with the lowest test error; or its training steps.

    Returns:
      The net: `net.predict('a.png')` names its most probable classes, `net(images)` computes
      logits.

    Raises:
      UserError: the folder holds no run, a run of another version, or no checkpoint.
      ValueError: `mesh` does not suit the towers, or `checkpoint` is something else.
    """
    folder = Workdir(check_path(str(workdir), 'workdir'))
    config = folder.read_config()
    return Classifier(folder, config, *restore(folder, config, mesh, checkpoint))


class Prediction(NamedTuple):
    """One of the most probable classes of a picture.

    Attributes:
      name: the name of the class in the data set, such as a WordNet id.
      probability: its probability, the mean over the views.
      label: the number of the class.
      description: the class in words; '' where there is no description.
    """

    name: str
    probability: float
    label: int
    description: str


def name_answers(
    log_p_K: np.ndarray, classes: Sequence[str], descriptions: Sequence[str], top: int
) -> list[Prediction]:
    """Names the most probable classes; equally probable ones are in the order of their numbers.

    Args:
      log_p_K: (K,) float32, logarithms of probabilities.
      classes: the names of the K classes.
      descriptions: a description of each class; '' where there is none.
      top: how many classes are named; all where there are fewer.
    """
    order = error_rates.most_probable(log_p_K[None], top)[0].tolist()
    return [Prediction(classes[k], float(np.exp(log_p_K[k])), k, descriptions[k]) for k in order]


class Classifier(Net):
    """A trained net on the devices of a mesh; `load` makes one.

    Args:
      workdir: the folder of the run.
      config: its settings.
      mesh: the devices that hold the parameters.
      step: the training steps done.
      params: nested dict of float32 arrays, as `alexnet.initialize` returns it.

    Attributes:
      workdir: the folder of the run.
      step: the training steps done.
      batch_size: the number of pictures that are computed together.
    """

    def __init__(
        self,
        workdir: Workdir,
        config: schema.Config,
        mesh: jax.sharding.Mesh,
        step: int,
        params: dict[str, Any],
    ) -> None:
        super().__init__(config, mesh=mesh, params=params)
        self.workdir, self.step = workdir, step
        replicas = mesh.shape[towers.DATA]
        is_cpu = mesh.devices.flat[0].platform == 'cpu'
        size = _BATCH_OF_CPU if is_cpu else config.evaluation.batch_size
        self.batch_size = -(-size // replicas) * replicas
        self._cache = _Cache()

    def _summary(self) -> dict[str, Any]:
        return {'workdir': str(self.workdir.path), 'step': self.step, **super()._summary()}

    @property
    def inputs(self) -> Inputs:
        """The mean image and the names of the classes.

        Raises:
          UserError: the run is of an earlier version, which kept neither, and its data set is gone.
        """
        if self._cache.inputs is None:
            self._cache.inputs = read_inputs(self.workdir)
        return self._cache.inputs

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return self.inputs.classes

    @overload
    def predict(
        self, pictures: Picture, top: int = 5, views: int | None = None
    ) -> list[Prediction]: ...

    @overload
    def predict(
        self, pictures: Iterable[Picture], top: int = 5, views: int | None = None
    ) -> list[list[Prediction]]: ...

    def predict(
        self, pictures: Picture | Iterable[Picture], top: int = 5, views: int | None = None
    ) -> Any:
        """Names the most probable classes of a picture, or of each picture of a series.

        Args:
          pictures: the path of a file, its bytes, an image of Pillow or an array (see
            `evaluation.pictures.read`); or a list, a generator, ... of them, or an array of the
            shape (N, rows, columns, colours).
          top: how many classes are named, at least 1; all where the net has fewer.
          views: how many views of a picture are averaged: 1, the centre crop; 5, with the corners;
            10, with their horizontal flips (§4.1). None: as the run is evaluated.

        Returns:
          The predictions, the most probable first; for a series, a list of them for each picture.

        Raises:
          UserError: a picture cannot be read; the message names it.
          TypeError: this is neither a picture nor a series of them, or `top` is not an integer.
          ValueError: `top` is below 1, or `views` is another number.
        """
        if not isinstance(top, (int, np.integer)):
            raise TypeError(f'top={top!r} must be an integer; several pictures are given as a list')
        if top < 1:
            raise ValueError(f'top={top} must be at least 1')
        series, single = as_series(pictures)
        parts = [
            self.log_probabilities(images_BHWC, views) for images_BHWC in self._batches(series)
        ]
        names = self.inputs.classes, self.inputs.descriptions
        predictions = [name_answers(log_p_K, *names, top) for part in parts for log_p_K in part]
        return predictions[0] if single else predictions

    def features(self, pictures: Picture | Iterable[Picture], layer: str = 'fc7') -> np.ndarray:
        """Computes the outputs of a layer for the centre crop, for retrieval or another classifier.

        Args:
          pictures: a picture or a series of pictures, as for `predict`.
          layer: the name of a layer before fc8.

        Returns:
          (N, units of all towers) float32 for a fully-connected layer, (N, rows, columns, maps of
          all towers) for a convolution and the operations after it; without N for one picture.

        Raises:
          UserError: a picture cannot be read; the message names it.
          TypeError: this is neither a picture nor a series of them.
          ValueError: the net has no such layer.
        """
        layers = [*self.config.model.convolutions(), *self.config.model.dense()]
        if layer not in layers:
            raise ValueError(f'layer={layer!r} must be a layer before fc8: {", ".join(layers)}')
        compute = inference.make_hidden(self.config, self.mesh, layer)
        (centre,) = inference.first_views(self.config, 1)
        series, single = as_series(pictures)
        parts = []
        for batch in self._batches(series):
            outputs = compute(self.params, self._mean_HWC(), self._pad(batch), centre)
            parts.append(np.asarray(outputs)[: len(batch)])
        features = np.concatenate(parts)
        return features[0] if single else features

    def log_probabilities(self, images_BHWC: np.ndarray, views: int | None = None) -> np.ndarray:
        """Computes the logarithm of the mean of the softmax over the views (§4.1).

        Args:
          images_BHWC: (B, size, size, 3) uint8, as `evaluation.pictures.read` returns them.
          views: as for `predict`.

        Returns:
          (B, K) float32.

        Raises:
          ValueError: `views` is another number, or the images have another shape.
        """
        if views not in (None, *VIEWS):
            raise ValueError(f'{views} views: 1, 5 or 10 are averaged')
        size = self.config.dataset.image_size
        images_BHWC = np.asarray(images_BHWC)
        if images_BHWC.shape[1:] != (size, size, 3) or images_BHWC.dtype != np.uint8:
            raise ValueError(
                f'images {images_BHWC.shape} {images_BHWC.dtype}, not (B, {size}, {size}, 3) uint8'
            )
        compute = inference.make_log_probabilities(self.config, self.mesh)
        parts = [np.zeros((0, self.config.dataset.classes), np.float32)]
        for start in range(0, len(images_BHWC), self.batch_size):
            batch = images_BHWC[start : start + self.batch_size]
            images, mean = self._pad(batch), self._mean_HWC()
            log_p_VBK = [
                compute(self.params, mean, images, view)
                for view in inference.first_views(self.config, views or self.config.views)
            ]
            parts.append(np.asarray(inference.mean_of_views(log_p_VBK))[: len(batch)])
        return np.concatenate(parts)

    def _batches(self, series: Iterable[Picture]) -> Iterator[np.ndarray]:
        """Yields the pictures batch by batch, decoded by threads: (B, size, size, 3) uint8.

        Without pictures it yields one batch, which has no rows.
        """
        size = self.config.dataset.image_size
        decoded = map_ahead(self._read, enumerate(series, 1), self.batch_size)
        batch = list(itertools.islice(decoded, self.batch_size))
        yield np.stack(batch) if batch else np.zeros((0, size, size, 3), np.uint8)
        while batch := list(itertools.islice(decoded, self.batch_size)):
            yield np.stack(batch)

    def _read(self, numbered: tuple[int, Picture]) -> np.ndarray:
        number, picture = numbered
        try:
            return pictures.read(picture, self.config.dataset)
        except (BadImage, OSError) as error:
            name = pictures.describe(picture, number)
            raise UserError(f'{name} {pictures.describe_error(error)}') from error

    def _mean_HWC(self) -> jax.Array:
        """Returns the mean image on the devices."""
        if self._cache.mean_HWC is None:
            placement = towers.shardings(self.mesh, towers.spec(self.mesh, 'constants'))
            self._cache.mean_HWC = jax.device_put(self.inputs.mean_HWC, placement)
        return self._cache.mean_HWC

    def _pad(self, batch_BHWC: np.ndarray) -> jax.Array:
        """Copies a batch to the devices, filled up to a size that is compiled.

        There are two: one image for each replica, and `batch_size` images.
        """
        number, replicas = len(batch_BHWC), self.mesh.shape[towers.DATA]
        rows = replicas if number <= replicas else self.batch_size
        padded = np.zeros((rows, *batch_BHWC.shape[1:]), np.uint8)
        padded[:number] = batch_BHWC
        return towers.put_batch(self.mesh, {'image': padded})['image']


class _Cache:
    """Values that are read once; as attributes of the net, NNX would take them for a part of it."""

    def __init__(self) -> None:
        self.inputs: Inputs | None = None
        self.mean_HWC: jax.Array | None = None
