"""The check of an export: each file is read back, and its logits are compared with ours.

All is computed in float32 and on the CPU, since GPUs round the factors of products to fewer bits by
default, each framework in its own way.
"""

import contextlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from alexnet_jax.data import augmentation
from alexnet_jax.data.images import BadImage
from alexnet_jax.data.loading import loader
from alexnet_jax.evaluation import trained_net
from alexnet_jax.interchange import safetensors_files
from alexnet_jax.interchange.exports import stablehlo_file
from alexnet_jax.interchange.extras import import_extra
from alexnet_jax.interchange.portable_net import PortableNet
from alexnet_jax.model import towers
from alexnet_jax.model.layer_table import CHANNELS
from alexnet_jax.model.net import Net
from alexnet_jax.model.parameters import leaves_by_name
from alexnet_jax.runtime import cpu_devices
from alexnet_jax.runtime.printing import printable
from alexnet_jax.runtime.progress import ProgressBars
from alexnet_jax.runtime.user_errors import UserError

PICTURES = 64
TOLERANCE = 1e-5  # of the logits, as a fraction of the largest one
_BATCH = 16

Outputs = Callable[[np.ndarray], Any]  # from (B, size, size, 3) uint8 to (B, K)


def is_installed(package: str) -> bool:
    """Returns whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def pictures(workdir: Path, net: PortableNet) -> tuple[np.ndarray, str]:
    """Returns pictures for the check, and what they are, in words.

    They are some of the run's test images, evenly spread, if these can be read; otherwise they are
    random.

    Returns:
      (B, size, size, 3) uint8, and a description.
    """
    size = net.config.dataset.image_size
    try:
        config = trained_net.read_config(workdir)
        source = trained_net.open_splits(config).eval
        number = min(PICTURES, len(source))
        result = np.empty((number, size, size, CHANNELS), np.uint8)
        for i, index in enumerate(np.linspace(0, len(source) - 1, number).astype(int)):
            filter, background = config.dataset.resize, config.dataset.background
            loader.read_into(source, int(index), result[i], filter, background)
        return result, f'{number} test images'
    except (UserError, OSError, BadImage):
        shape = (PICTURES, size, size, CHANNELS)
        noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        return noise, f'{PICTURES} random pictures, since the test images cannot be read here'


class Reference:
    """Our logits of some pictures, with which those of other programs are compared.

    Args:
      net: the net.
      images_BHWC: (B, size, size, 3) uint8.

    Attributes:
      net: the net, in float32.
      images: the pictures.
      logits: (B, K) float32.

    Raises:
      UserError: the logits are not finite, or JAX cannot use the CPU.
    """

    def __init__(self, net: PortableNet, images_BHWC: np.ndarray) -> None:
        self.net, self.images = stablehlo_file.in_float32(net), images_BHWC
        ours = Net(self.net.config, mesh=_mesh_of_cpu(), params=self.net.params)
        self.logits = _of_all(lambda x: ours(crops(net, x)), images_BHWC, 'our logits')
        if not np.isfinite(self.logits).all():
            raise UserError(
                'the logits of the net are not finite, so that its training has diverged: export '
                'an earlier checkpoint (--checkpoint=best)'
            )

    def difference(self, label: str, outputs: Outputs, *, log_softmax: bool = False) -> float:
        """Returns the largest difference of outputs from ours, as a fraction of our largest one.

        Args:
          label: the name of the program, for the progress bar.
          outputs: the function that computes the outputs of a batch.
          log_softmax: whether these are log probabilities in place of logits.
        """
        expected = self.logits
        if log_softmax:
            with _on_cpu():
                expected = np.asarray(jax.nn.log_softmax(expected))
        actual = _of_all(outputs, self.images, label)
        if actual.shape != expected.shape or not np.isfinite(actual).all():
            return float('inf')
        largest = max(float(np.abs(expected).max()), 1e-30)
        return float(np.abs(actual - expected).max()) / largest


def crops(net: PortableNet, images_BHWC: np.ndarray) -> np.ndarray:
    """Returns the central crops of images as the net takes them: (B, crop, crop, 3) float32."""
    with _on_cpu():
        arrays = jnp.asarray(images_BHWC), jnp.asarray(net.inputs.mean_HWC)
        return np.asarray(augmentation.take_centre(*arrays, net.config.augmentation))


def _mesh_of_cpu() -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.asarray([[_cpu()]]), (towers.DATA, towers.TOWER))


def _on_cpu() -> contextlib.AbstractContextManager[None]:
    return jax.default_device(_cpu())


def _cpu() -> jax.Device:
    try:
        return jax.local_devices(backend='cpu')[0]
    except RuntimeError as error:
        raise UserError(
            'the check computes on the CPU, which JAX_PLATFORMS leaves out: add ,cpu to it'
        ) from error


def _of_all(outputs: Outputs, images_BHWC: np.ndarray, label: str) -> np.ndarray:
    """Computes the outputs of all pictures, batch by batch, with a progress bar."""
    parts, number = [], len(images_BHWC)
    with ProgressBars() as bars:
        for start in range(0, number, _BATCH):
            bars.show_images(f'check: {label}', start, number)
            parts.append(np.asarray(outputs(images_BHWC[start : start + _BATCH])))
    return np.concatenate(parts)


def read_back(net: PortableNet, file: Path) -> None:
    """Checks that a safetensors file holds this net, bit by bit.

    Raises:
      UserError: it does not.
    """
    copy = safetensors_files.read(file)
    ours, theirs = (
        leaves_by_name(
            {'params': x.params, 'mean_HWC': x.inputs.mean_HWC, 'colours': vars(x.inputs.colours)}
        )
        for x in (net, copy)
    )
    different = [name for name, x in ours.items() if not _is_equal(x, theirs.get(name))]
    names = (net.inputs.classes, net.inputs.descriptions, net.step)
    if different or names != (copy.inputs.classes, copy.inputs.descriptions, copy.step):
        raise UserError(f'{printable(str(file))} differs from the net: {different[:1]}')


def _is_equal(x: Any, y: Any) -> bool:
    x, y = np.asarray(x), np.asarray(y)
    return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()


def torch_logits(folder: Path) -> Outputs:
    """Returns the logits of the PyTorch module in a folder.

    Raises:
      UserError: PyTorch is not installed.
    """
    torch = import_extra('torch', 'running the PyTorch module')
    specification = importlib.util.spec_from_file_location('_', folder / 'alexnet_torch.py')
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    net = module.load(folder)

    def outputs(images_BHWC: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return net(torch.from_numpy(images_BHWC).permute(0, 3, 1, 2)).numpy()

    return outputs


def onnx_logits(net: PortableNet, file: Path, preprocessing: bool) -> Outputs:
    """Returns the logits that ONNX Runtime computes.

    Args:
      net: the net, for the preprocessing where the file has none.
      file: the ONNX file.
      preprocessing: whether the file has the preprocessing.

    Raises:
      UserError: ONNX Runtime is not installed.
    """
    session = open_session(file)
    (pixels,) = session.get_inputs()

    def outputs(images_BHWC: np.ndarray) -> np.ndarray:
        x = images_BHWC if preprocessing else crops(net, images_BHWC).transpose(0, 3, 1, 2)
        return session.run(['logits'], {pixels.name: x})[0]

    return outputs


def open_session(file: Path) -> Any:
    """Opens an ONNX file in ONNX Runtime, on the CPU, with a thread for each core.

    Returns:
      An `onnxruntime.InferenceSession`.

    Raises:
      UserError: ONNX Runtime is not installed.
    """
    runtime = import_extra('onnxruntime', 'running an ONNX file')
    options = runtime.SessionOptions()
    # Where the number is not given, ONNX Runtime binds its threads to cores, which containers
    # refuse with a warning for each thread.
    options.intra_op_num_threads = cpu_devices.processor_count()
    return runtime.InferenceSession(file, options, providers=['CPUExecutionProvider'])


def stablehlo_log_probabilities(file: Path) -> Outputs:
    """Returns the log probabilities that a StableHLO file computes."""
    function = jax.jit(jax.export.deserialize(bytearray(file.read_bytes())).call)

    def outputs(images_BHWC: np.ndarray) -> np.ndarray:
        with _on_cpu():
            return np.asarray(function(images_BHWC))

    return outputs
