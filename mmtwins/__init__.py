"""Twins-SVT and Twins-PCPVT backbones (arXiv:2104.13840) for MMSegmentation and MMDetection.

Importing this package registers its modules in MMEngine's root registries, which mmseg and mmdet fall back to. It makes
``_base_ = 'mmtwins::ade20k/NAME.py'`` work, and lets MMEngine read every checkpoint as weights only, see
:mod:`mmtwins.weights.loading`. The import needs only torch and MMEngine; :func:`create_model`, :func:`infer` and
:func:`swap_backbone` are imported when first used. Without MMEngine nothing is registered, and :func:`create_model` is there.

The command ``mmtwins`` and the files of tools/ import torch only when they need it. They register the modules by importing
:mod:`mmtwins.registration`.
"""
# ruff: noqa: F403, for names that come from .registration

import os
import signal
import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = '0.1.0'
__all__ = ['create_model', 'infer', 'swap_backbone']


def _starts_command() -> bool:
    """Whether Python was started to run the command ``mmtwins``, ``python -m mmtwins``, or a file of our tools/."""
    program, given = sys.argv[0] if sys.argv else '', sys.orig_argv
    if program == '-m':  # while Python still looks for the module to run
        return ('-m', 'mmtwins') in pairwise(given)
    package = Path(__file__).resolve().parent
    folders = (package.parent / 'tools', package / '.mim' / 'tools')
    # In a child process, sys.argv holds the parent's arguments, but sys.orig_argv does not.
    return program in given and (_is_entry_point(program) or Path(program).resolve().parent in folders)


def _is_entry_point(program: str) -> bool:
    """Whether a program is the one that an install makes, and not a user's script of that name."""
    if Path(program).name != 'mmtwins':
        return False
    try:
        return b'from mmtwins.__main__ import main' in Path(program).read_bytes()
    except OSError:
        return False


def _has_mmengine() -> bool:
    try:
        import_module('mmengine')
    except ImportError:
        return False
    return True


LAZY = {  # imported when first used
    'create_model': '.dropin.creating',
    'infer': '.inference.predictor',
    'swap_backbone': '.swapping.planning',
}

if TYPE_CHECKING:
    from .dropin.creating import create_model
    from .inference.predictor import infer
    from .swapping.planning import swap_backbone

if TYPE_CHECKING or not _starts_command():
    if TYPE_CHECKING or _has_mmengine():
        from . import registration
        from .registration import *

        __all__ += registration.__all__
elif signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Ctrl-C during the imports. Later, mmtwins.engine.arguments.readable_errors tells how to continue.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))


def __getattr__(name: str) -> Any:
    if name in LAZY:
        return getattr(import_module(LAZY[name], __name__), name)
    if not name.startswith('_'):
        if not _has_mmengine():
            raise AttributeError(
                f'mmtwins has no {name!r} here: all that it registers needs MMEngine, which cannot be imported: '
                'pip install mmengine==0.10.7'
            )
        registered = import_module('.registration', __name__)
        if name in registered.__all__:
            return getattr(registered, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
