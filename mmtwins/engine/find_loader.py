"""``pkgutil.find_loader``, which MMEngine 0.10 and MMCV 2.1 call and Python 3.14 no longer has."""

import pkgutil
from importlib.util import find_spec
from typing import Any


def restore_find_loader() -> None:
    """Give ``pkgutil`` its function back where it is missing."""
    if not hasattr(pkgutil, 'find_loader'):
        pkgutil.find_loader = _find_loader


def _find_loader(fullname: str) -> Any:
    """The loader of a module, or None if there is no such module; raises ImportError if its package cannot be imported."""
    spec = find_spec(fullname)
    return spec.loader if spec else None
