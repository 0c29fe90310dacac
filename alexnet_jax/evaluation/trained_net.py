"""A trained net from its workdir: its settings, its parameters, and its outputs for images.

For programs that evaluate or show a run without resuming it. The modules that read data sets are
imported where they are needed: a net can also be used without its data set.
"""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from alexnet_jax.config import schema
from alexnet_jax.data import images
from alexnet_jax.model import inference, memory, towers
from alexnet_jax.model.layer_table import layer_table
from alexnet_jax.model.net import check_mesh
from alexnet_jax.runtime import cpu_devices
from alexnet_jax.runtime.printing import complain, printable
from alexnet_jax.runtime.progress import ProgressBars
from alexnet_jax.runtime.user_errors import UserError
from alexnet_jax.training.run_files.inputs_file import Inputs, class_difference
from alexnet_jax.training.state import compute_inputs, place_constants, state_shapes
from alexnet_jax.training.workdir import Workdir

if TYPE_CHECKING:
    from alexnet_jax.data import sources
    from alexnet_jax.data.loading import loader

MANY_IMAGES = 10_000  # from this number on, progress is shown
NEWEST, BEST = 'newest', 'best'  # checkpoints of a run
Checkpoint = str | int  # NEWEST, BEST, or a number of training steps
ANY_MESH = schema.Mesh(tower=0, data=0, dense='tower')  # chosen by the devices of this machine


def mesh_of_this_machine(config: schema.Config) -> jax.sharding.Mesh:
    """Chooses a mesh for a trained net from this machine's devices.

    With accelerators it has as many replicas as there is room for: batches are filled up to a
    multiple of them, so the batch sizes of the run need not be divisible.
    """
    cpu_devices.prepare_cpu_devices()
    optimizer = dataclasses.replace(config.optimizer, batch_size=0)  # any number divides 0
    evaluation = dataclasses.replace(config.evaluation, batch_size=0)
    return towers.choose_mesh(
        dataclasses.replace(config, mesh=ANY_MESH, optimizer=optimizer, evaluation=evaluation)
    )


class Restored(NamedTuple):
    """The parameters of a checkpoint.

    Attributes:
      mesh: the devices that hold them.
      step: the training steps done.
      params: nested dict of float32 arrays, as `alexnet.initialize` returns it.
    """

    mesh: jax.sharding.Mesh
    step: int
    params: dict[str, Any]


def restore(
    workdir: Workdir,
    config: schema.Config,
    mesh: jax.sharding.Mesh | None = None,
    checkpoint: Checkpoint = NEWEST,
) -> Restored:
    """Restores the parameters of a checkpoint.

    Args:
      workdir: the folder of the run.
      config: the settings of the run.
      mesh: the devices to place the parameters on; None chooses them from this machine's, whatever
        the net was trained on.
      checkpoint: 'newest'; 'best', the one with the lowest test error; or its training steps.

    Raises:
      UserError: there is no such checkpoint, or the sizes of the layers do not fit together.
      ValueError: `mesh` does not suit the towers, or `checkpoint` is neither of the two words nor a
        whole number.
    """
    layer_table(config)  # raises a UserError for sizes that do not fit together
    mesh = mesh or mesh_of_this_machine(config)
    check_mesh(config, mesh)
    step = _step(checkpoint)
    memory.check(config, mesh, is_training=False)
    if checkpoint == BEST:
        with workdir.open_checkpoints() as checkpoints:
            step = checkpoints.best
        if step is None:
            raise UserError(f'{workdir.path} has no best checkpoint: use --checkpoint=newest')
    state, position = workdir.restore(state_shapes(config, mesh), step)
    return Restored(mesh, position.step, state.params)


def _step(checkpoint: Any) -> int | None:
    """Returns the training steps of a checkpoint that is chosen by them; None for the others."""
    if checkpoint in (NEWEST, BEST):
        return None
    try:
        return operator.index(checkpoint)  # any whole number, such as one of NumPy
    except TypeError:
        raise ValueError(
            f"checkpoint={checkpoint!r} is neither 'newest' nor 'best' nor a number of training "
            'steps'
        ) from None


def read_config(workdir: Path) -> schema.Config:
    """Reads the settings of a run, and where its data set is.

    If the settings do not name a `data_dir`, the data set was in the usual place of that time. If
    it is not in that of today but where the run recorded it, that place becomes the `data_dir`.

    Raises:
      UserError: the folder holds no run, or a run of another version.
    """
    from alexnet_jax.data.preparation import tfds_sets

    folder = Workdir(workdir)
    config = folder.read_config()
    recorded = Path((folder.read_record().get('data') or {}).get('folder') or '/')
    if config.dataset.data_dir or len(recorded.parts) < 3 or not recorded.is_dir():
        return config
    name = re.split('[:/]', config.dataset.name)[0]
    place = next((x.parent for x in recorded.parents if x.name == name), recorded.parents[1])
    if (tfds_sets.data_dir('') / recorded.relative_to(place)).is_dir():
        return config
    return dataclasses.replace(
        config, dataset=dataclasses.replace(config.dataset, data_dir=str(place))
    )


def open_splits(config: schema.Config) -> sources.Splits:
    """Opens the data set of a run that exists; does not prepare one in a folder that it names.

    Raises:
      UserError: the data set is not there, or cannot be used.
    """
    from alexnet_jax.data import sources

    try:
        return sources.open_splits(config.dataset, config.loader.skip_bad, create=False)
    except UserError as error:
        place = '--folder=DIR' if config.dataset.folder else '--data_dir=DIR'
        hint = '' if place in str(error) else f'; if the images have moved: {place}'
        raise UserError(f'{error}{hint}') from error


def read_inputs(workdir: Workdir) -> Inputs:
    """Reads the mean image and the names of the classes of a run.

    Runs of earlier versions did not keep them; then they are read from the data set.

    Raises:
      UserError: neither has them.
    """
    inputs = workdir.read_inputs()
    if inputs is not None:
        return inputs
    config = read_config(workdir.path)
    try:
        return _inputs_of_data_set(workdir, config, open_splits(config))
    except UserError as error:
        raise UserError(
            f'{workdir.path} is a run of an earlier version, which did not keep its mean image, '
            f'and its data set cannot be used ({error}): resume the run once where the data set is'
        ) from error


def _inputs_of_data_set(folder: Workdir, config: schema.Config, splits: sources.Splits) -> Inputs:
    """Computes what a run of an earlier version did not keep from the images of today."""
    from alexnet_jax.data.loading.unreadable_images import UnreadableImages

    if difference := folder.data_difference('train', splits.identity()):
        complain(
            f'the images are not those that {printable(str(folder.path))} was trained on '
            f'({difference}): the mean image is not that of the training, and the numbers of '
            'the classes may be others'
        )
    unreadable = UnreadableImages(splits.train, config.loader.skip_bad)
    return compute_inputs(config, splits, unreadable)


class LabelledImages(NamedTuple):
    """The images of a split as they are stored, without their pixels.

    Attributes:
      classes: the names of the labels.
      names: the names of the images; the place of the record where an image has no name.
      labels: (N,) int32.
    """

    classes: list[str]
    names: list[str]
    labels: np.ndarray


def read_labels(source: sources.Source) -> LabelledImages:
    """Reads names and labels without decoding images; shows progress where there are many.

    Raises:
      UserError: a record is damaged or has no label.
    """
    from alexnet_jax.data.loading import loader, unreadable_images

    names, labels = [], np.empty(len(source), np.int32)
    with ProgressBars() as bars:
        for index in range(len(source)):
            try:
                example = loader.read_labelled(source, index)
            except images.BadImage as error:
                raise unreadable_images.unreadable_error(source, index, error) from error
            names.append(example.get('name') or source.where(index))
            labels[index] = example['label']
            if len(source) > MANY_IMAGES and index % 100 == 0:
                bars.show_images('labels', index, len(source))
    return LabelledImages(source.classes, names, labels)


class TrainedNet:
    """A checkpoint of a run on this machine's devices, with the run's test images.

    Args:
      workdir: the folder of the run.
      mesh: the devices to use; None chooses them from this machine's, whatever the net was trained
        on.
      config: settings in place of those in the folder, for images that have moved.
      checkpoint: 'newest'; 'best', the one with the lowest test error; or its training steps.

    Attributes:
      workdir: the folder of the run.
      config: the settings.
      mesh: the devices that hold the parameters.
      step: training steps done.
      params: nested dict of float32 arrays, as in `state.State`.
      source: the test images.
      inputs: the mean image and the names of the classes.

    Raises:
      UserError: the folder holds no run or no checkpoint, the data set is missing, or its classes
        are not those of the net.
    """

    def __init__(
        self,
        workdir: Path,
        mesh: jax.sharding.Mesh | None = None,
        config: schema.Config | None = None,
        checkpoint: Checkpoint = NEWEST,
    ) -> None:
        folder = Workdir(workdir)
        self.workdir, self.config = workdir, config or read_config(workdir)
        self.mesh, self.step, self.params = restore(folder, self.config, mesh, checkpoint)
        splits = open_splits(self.config)
        self.source = splits.eval
        self.inputs = folder.read_inputs() or _inputs_of_data_set(folder, self.config, splits)
        if difference := class_difference(self.inputs.classes, self.source.classes):
            raise UserError(
                f'the images have other classes than {printable(str(workdir))} ({difference}): '
                'choose images of the same classes in the same order'
            )
        self._mean_HWC = place_constants(self.config, self.mesh, self.inputs).mean_HWC

    def labels(self) -> np.ndarray:
        """Reads the label of every test image: (N,) int32."""
        return read_labels(self.source).labels

    def log_probabilities(self) -> tuple[np.ndarray, np.ndarray]:
        """Computes the logarithms of the centre crop's softmax and of the mean over views (§4.1).

        Returns:
          Both (N, K) float32, one row for each test image.
        """
        log_probabilities = inference.make_log_probabilities(self.config, self.mesh)
        views = inference.test_views(self.config)

        def of_batch(images_BHWC: jax.Array) -> tuple[np.ndarray, np.ndarray]:
            log_p = [
                log_probabilities(self.params, self._mean_HWC, images_BHWC, view) for view in views
            ]
            return np.asarray(log_p[0]), np.asarray(inference.mean_of_views(log_p))

        return self._all(of_batch)

    def last_hidden(self) -> np.ndarray:
        """Computes the last hidden layer for the centre crop (§6.1).

        Returns:
          (N, units of all towers) float32.
        """
        last_hidden = inference.make_hidden(self.config, self.mesh)
        centre = inference.test_views(self.config)[0]

        def of_batch(images_BHWC: jax.Array) -> tuple[np.ndarray]:
            return (np.asarray(last_hidden(self.params, self._mean_HWC, images_BHWC, centre)),)

        return self._all(of_batch)[0]

    def image(self, index: int) -> np.ndarray:
        """Reads a test image, scaled and cropped as it is for the net: (size, size, 3) uint8."""
        from alexnet_jax.data.loading import loader, unreadable_images

        size = self.config.dataset.image_size
        image = np.empty((size, size, 3), np.uint8)
        try:
            data = self.config.dataset
            loader.read_into(self.source, index, image, data.resize, data.background)
        except images.BadImage as error:
            raise unreadable_images.unreadable_error(self.source, index, error) from error
        return image

    def _all(self, of_batch: Callable[[Any], tuple[np.ndarray, ...]]) -> tuple[Any, ...]:
        """Applies a function to all test images, batch by batch; shows progress if there are many.

        Args:
          of_batch: a function of (B, size, size, 3) uint8 images that returns arrays with B rows.

        Returns:
          The arrays of all batches joined, with one row for each test image, in order.
        """
        parts, done = [], 0
        with ProgressBars() as bars:
            for batch, counts in self._batches():
                images_BHWC = towers.put_batch(self.mesh, {'image': batch['image']})['image']
                parts.append([x[counts] for x in of_batch(images_BHWC)])
                done += int(counts.sum())
                if len(self.source) > MANY_IMAGES:
                    bars.show_images('testing', done, len(self.source))
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))

    def _batches(self) -> Iterator[tuple[loader.Batch, np.ndarray]]:
        """Yields batches of test images, and which of their rows count: the last one is padded."""
        from alexnet_jax.data.loading import loader

        reading = loader.Reading.from_config(self.config)
        size, replicas = self.config.evaluation.batch_size, self.mesh.shape[towers.DATA]
        batch_size = -(-size // replicas) * replicas
        for batch in loader.evaluation_batches(self.source, reading, batch_size):
            yield batch, batch['weight'] > 0
