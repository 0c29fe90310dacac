"""A trained net that classifies pictures, with the names of its classes (§4.1, §6.1)."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, overload

import jax
import numpy as np

from alexnet_jax.config import schema
from alexnet_jax.data.images import BadImage
from alexnet_jax.evaluation import pictures
from alexnet_jax.evaluation.pictures import Picture
from alexnet_jax.evaluation.trained_net import (
    NEWEST,
    Checkpoint,
    mesh_of_this_machine,
    read_inputs,
    restore,
)
from alexnet_jax.model import inference, towers
from alexnet_jax.model.layer_table import layer_table
from alexnet_jax.model.net import Net
from alexnet_jax.runtime import cpu_devices
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
    """
    folder = Workdir(check_path(str(workdir), 'workdir'))
    config = folder.read_config()
    layer_table(config)  # raises a UserError for sizes that do not fit together
    mesh = mesh or mesh_of_this_machine(config)
    step, params = restore(folder, config, mesh, checkpoint)
    return Classifier(folder, config, mesh, step, params)


class Prediction(NamedTuple):
    """One of the most probable classes of a picture.

    Attributes:
      name: the name of the class in the data set, such as a WordNet id.
      probability: its probability, the mean over the views.
      label: the number of the class.
      description: what the class is in words; '' where nobody has said it.
    """

    name: str
    probability: float
    label: int
    description: str


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
      batch_size: the pictures that are computed together.
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
        self, pictures: list[Picture], top: int = 5, views: int | None = None
    ) -> list[list[Prediction]]: ...

    @overload
    def predict(
        self, pictures: Picture, top: int = 5, views: int | None = None
    ) -> list[Prediction]: ...

    def predict(
        self, pictures: Picture | list[Picture], top: int = 5, views: int | None = None
    ) -> Any:
        """Names the most probable classes of a picture, or of each picture of a list.

        Args:
          pictures: the path of a file, its bytes, an image of Pillow or an array (see
            `evaluation.pictures.read`), or a list of them.
          top: how many classes are named.
          views: how many views of a picture are averaged: 1, the centre crop; 5, with the corners;
            10, with their horizontal flips (§4.1). None: as the run is evaluated.

        Returns:
          The predictions, the most probable first; for a list, a list of them for each picture.

        Raises:
          UserError: a picture cannot be read; the message names it.
          ValueError: `views` is another number.
        """
        single = not isinstance(pictures, list)
        log_p_NK = self._of_pictures([pictures] if single else pictures, views)
        predictions = [self.name_answers(log_p_K, top) for log_p_K in log_p_NK]
        return predictions[0] if single else predictions

    def name_answers(self, log_p_K: np.ndarray, top: int = 5) -> list[Prediction]:
        """Names the most probable classes, of equally probable ones the lower number first.

        Args:
          log_p_K: (K,) float32, logarithms of probabilities.
          top: how many classes are named.
        """
        names, descriptions = self.inputs.classes, self.inputs.descriptions
        order = np.argsort(-log_p_K, kind='stable')[:top].tolist()
        return [Prediction(names[k], float(np.exp(log_p_K[k])), k, descriptions[k]) for k in order]

    def features(self, pictures: Picture | list[Picture], layer: str = 'fc7') -> np.ndarray:
        """Computes the outputs of a layer for the centre crop, for retrieval or another classifier.

        Args:
          pictures: a picture or a list of pictures, as for `predict`.
          layer: the name of a layer before fc8.

        Returns:
          (N, units of all towers) float32 for a fully-connected layer, (N, rows, columns, maps of
          all towers) for a convolution and the operations after it; without N for one picture.

        Raises:
          UserError: a picture cannot be read; the message names it.
          ValueError: the net has no such layer.
        """
        layers = [*self.config.model.convolutions(), *self.config.model.dense()]
        if layer not in layers:
            raise ValueError(f'the net has no layer {layer!r} before fc8: {", ".join(layers)}')
        compute = inference.make_hidden(self.config, self.mesh, layer)
        (centre,) = inference.first_views(self.config, 1)
        single = not isinstance(pictures, list)
        parts = []
        for batch in self._batches([pictures] if single else pictures):
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

    def _of_pictures(self, pictures: Sequence[Picture], views: int | None) -> np.ndarray:
        return np.concatenate([self.log_probabilities(x, views) for x in self._batches(pictures)])

    def _batches(self, pictures_N: Sequence[Picture]) -> Iterator[np.ndarray]:
        """Yields the pictures batch by batch, decoded by threads: (B, size, size, 3) uint8.

        Without pictures it yields one batch, which has no rows.
        """
        size = self.config.dataset.image_size
        if not pictures_N:
            yield np.zeros((0, size, size, 3), np.uint8)
        with ThreadPoolExecutor(cpu_devices.processor_count()) as pool:
            for start in range(0, len(pictures_N), self.batch_size):
                batch = pictures_N[start : start + self.batch_size]
                numbers = range(start + 1, start + 1 + len(batch))
                yield np.stack([*pool.map(self._read, batch, numbers)])

    def _read(self, picture: Picture, number: int) -> np.ndarray:
        try:
            return pictures.read(picture, self.config.dataset)
        except BadImage as error:
            raise UserError(f'{pictures.describe(picture, number)} {error}') from error
        except OSError as error:
            name = pictures.describe(picture, number)
            raise UserError(f'cannot read {name}: {error.strerror}') from error

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
    """What a classifier keeps from its first use on; NNX must not take it for a part of the net."""

    def __init__(self) -> None:
        self.inputs: Inputs | None = None
        self.mean_HWC: jax.Array | None = None
