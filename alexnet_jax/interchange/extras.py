"""Packages that a single file format needs, and that are not among the requirements."""

import importlib
from typing import Any

from alexnet_jax.runtime.user_errors import UserError


def import_extra(package: str, purpose: str) -> Any:
    """Imports a package that need not be installed.

    Args:
      package: the name of the package and of its module.
      purpose: what needs it, for the message, such as 'an ONNX file'.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise UserError(f'{purpose} needs the package {package}: pip install {package}') from error
