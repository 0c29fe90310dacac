"""Files of named arrays: .safetensors, and PyTorch's .pth without executing what it contains.

A .pth is a pickle, which could call any function. `torch.load(weights_only=True)` refuses all but
those that make tensors. Before that, the memory that it would allocate is compared with the size of
the file: a compressed archive may unpack to any size, and a pickle may state any number of values.
"""

import contextlib
import io
import mmap
import pickletools
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from alexnet_jax.runtime.paths import check_input_file
from alexnet_jax.runtime.printing import printable
from alexnet_jax.runtime.user_errors import UserError, explain_os_errors, first_line

_DTYPES = {'F64': 8, 'F32': 4, 'F16': 2, 'BF16': 2}  # bytes
_LONGEST_HEADER = 1 << 24  # bytes of a safetensors file; names, settings and class names
_LONGEST_PICKLE = 1 << 20  # bytes; that of an AlexNet has about 2,000
_MOST_MEMBERS = 10_000
_ZIP = b'PK\x03\x04'
_MEMBER = b'PK\x01\x02'  # before each entry of a zip archive's directory
_MAGIC = 0x1950A86A20F9469CFC6C  # the first number of a .pth of before 2020


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads a .safetensors file.

    Returns:
      The arrays by name, of a float dtype; and the metadata.

    Raises:
      UserError: the file cannot be read, is damaged, or has arrays of other dtypes.
    """
    shown = printable(str(path))
    check_input_file(path, 'a .safetensors file')
    with explain_os_errors(f'read {path}'), path.open('rb') as file:
        start, size = file.read(8), path.stat().st_size
    length = int.from_bytes(start, 'little')
    if len(start) < 8 or length > size - 8:
        raise UserError(
            f'{shown} is damaged, or is not a .safetensors file: its header would have '
            f'{length:,} bytes, the file has {size:,}; download or export it again'
        )
    if length > _LONGEST_HEADER:
        raise UserError(
            f'{shown} has a header of {length:,} bytes, more than the {_LONGEST_HEADER:,} that a '
            'net has: give another file'
        )
    try:
        with safe_open(path, framework='numpy') as file:
            for name in file.keys():  # noqa: SIM118 - it is no dict
                part = file.get_slice(name)
                if part.get_dtype() not in _DTYPES:
                    raise UserError(
                        f'{printable(name)} in {shown} is of dtype {part.get_dtype()}: only '
                        f'{", ".join(_DTYPES)} are read; convert it'
                    )
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return arrays, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError, OverflowError, MemoryError) as error:
        raise UserError(
            f'{shown} is damaged ({first_line(error)}): download or export it again'
        ) from error


def read_pth(path: Path) -> dict[str, np.ndarray]:
    """Reads the state dict in a .pth file, or in a checkpoint under 'state_dict' or 'model'.

    Returns:
      The arrays by name, float32 or float64.

    Raises:
      UserError: torch is not installed; or the file cannot be read, is damaged, or has anything
        but a state dict.
    """
    shown = printable(str(path))
    check_input_file(path, 'a .pth or .safetensors file')
    with explain_os_errors(f'read {path}'):
        with path.open('rb') as file:
            start = file.read(4)
        if start == _ZIP:
            _check_archive(path)
        else:
            _check_pickles(path)
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f'{shown} can only be read where torch is installed: install it, or convert the file '
            'on another machine: python -c "import torch, safetensors.torch; '
            "safetensors.torch.save_file(torch.load('FILE.pth', weights_only=True), "
            "'FILE.safetensors')\""
        ) from error
    try:
        with warnings.catch_warnings(), explain_os_errors(f'read {path}'):
            warnings.simplefilter('ignore')
            content = torch.load(path, map_location='cpu', weights_only=True)
    except UserError:
        raise
    except Exception as error:  # damaged files raise many kinds of errors
        raise UserError(
            f'{shown} is damaged, or has more than weights, which are not executed here '
            f'({first_line(error)[:200]}): give a state dict'
        ) from error
    return _state_dict(torch, content, path)


def _state_dict(torch: Any, content: Any, path: Path) -> dict[str, np.ndarray]:
    for key in ('state_dict', 'model'):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    shown, size = printable(str(path)), path.stat().st_size
    if not isinstance(content, Mapping) or not content:
        raise UserError(f'{shown} has no state dict, but a {type(content).__name__}: give one')
    arrays = {}
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise UserError(f'{shown} has no state dict of tensors: give one')
        floats = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
        if tensor.dtype not in floats or tensor.layout != torch.strided:
            raise UserError(
                f'{printable(name)} in {shown} is a tensor of {tensor.dtype}, {tensor.layout}: '
                'only dense tensors of floats are read'
            )
        if tensor.is_meta or tensor.numel() * tensor.element_size() > size:
            raise UserError(
                f'{shown} is damaged: {printable(name)} would be larger than the file; download it '
                'again'
            )
        tensor = tensor.detach()
        if tensor.dtype in (torch.float16, torch.bfloat16):
            tensor = tensor.to(torch.float32)
        arrays[name] = tensor.numpy()
    return arrays


def _check_archive(path: Path) -> None:
    """Refuses a zip archive that would need more memory than the file has bytes."""
    shown, size = printable(str(path)), path.stat().st_size
    with path.open('rb') as file, contextlib.closing(_map(file)) as data:
        members, position = 0, data.find(_MEMBER)
        while position >= 0 and members <= _MOST_MEMBERS:
            members, position = members + 1, data.find(_MEMBER, position + 1)
    if members > _MOST_MEMBERS:
        raise UserError(f'{shown} has more than {_MOST_MEMBERS:,} members: no weights have so many')
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f'{shown} is damaged ({first_line(error)}): download it again') from error
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise UserError(
                f'{shown} is compressed or encrypted, which PyTorch never does: give the file as '
                'torch.save wrote it'
            )
    if sum(info.file_size for info in infos) > size:
        raise UserError(f'{shown} is damaged: its members are larger than the file')
    pickles = [info.file_size for info in infos if info.filename.endswith('.pkl')]
    if sum(pickles) > _LONGEST_PICKLE:
        raise UserError(
            f'{shown} has a pickle of {sum(pickles):,} bytes, more than weights need: give a state '
            'dict'
        )
    with zipfile.ZipFile(path) as archive:
        for info in infos:
            if info.filename.endswith('.pkl'):
                with _damage_explained(path):
                    _check_opcodes(archive.read(info), size, shown)


def _check_pickles(path: Path) -> None:
    """Checks the five pickles at the start of a .pth that is not an archive."""
    shown, size = printable(str(path)), path.stat().st_size
    with path.open('rb') as file:
        data = file.read(_LONGEST_PICKLE)
    with _damage_explained(path):
        position = 0
        for index in range(5):
            position += _check_opcodes(data[position:], size, shown, is_first=index == 0)


@contextlib.contextmanager
def _damage_explained(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # pickletools raises many kinds of errors
        raise UserError(
            f'{printable(str(path))} is damaged, or was not saved by PyTorch '
            f'({first_line(error)[:200]}): give another file'
        ) from error


def _check_opcodes(data: bytes, size: int, shown: str, is_first: bool = False) -> int:
    """Reads a pickle's instructions without executing any; returns the pickle's length.

    Args:
      data: begins with the pickle.
      size: bytes of the file, which no number in the pickle may exceed.
      shown: the file's name for messages.
      is_first: whether this is the pickle with PyTorch's magic number.

    Raises:
      UserError: a number is larger.
    """
    for opcode, argument, position in pickletools.genops(io.BytesIO(data)):
        is_magic = is_first and argument == _MAGIC
        if isinstance(argument, int) and abs(argument) > size and not is_magic:
            raise UserError(
                f'{shown} is damaged: it states {argument:,} numbers, but has {size:,} bytes; '
                'download it again'
            )
        if opcode.name == 'STOP':
            return (position or 0) + 1
    raise ValueError('its pickle has no end')


def _map(file: Any) -> mmap.mmap:
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
