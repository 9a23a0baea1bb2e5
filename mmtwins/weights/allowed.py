"""What a checkpoint may hold besides tensors and plain data, and a reader that allows nothing else on any PyTorch.

PyTorch's weights-only reader calls what stands in a list. Some of what MMEngine's checkpoints name must not stand there:
``numpy.ndarray`` called with a buffer makes pointers of bytes, ``numpy.dtype`` takes any state, and ``getattr`` reaches
everything. Stand-ins with the same names do what MMEngine's checkpoints need, and nothing else.
"""

import argparse
import pickle
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

try:
    from numpy._core import multiarray
except ImportError:  # NumPy 1
    from numpy.core import multiarray  # type: ignore[no-redef]  # the same module by its older name

try:
    from mmengine.logging import HistoryBuffer
except ImportError:  # a program with torch alone, which reads the weights beside it

    class HistoryBuffer:  # type: ignore[no-redef]
        """Stands for MMEngine's."""

        __module__ = 'mmengine.logging.history_buffer'


CAN_ALLOW_TYPES = hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint')  # torch 2.6 or newer
STATISTICS = ('min', 'max', 'current', 'mean')
ARRAYS = ('_log_history', '_count_history')  # of a HistoryBuffer
INTEGERS = ('i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8')
NUMBERS = [np.dtype(code) for code in (*INTEGERS, '?', 'f2', 'f4', 'f8', 'c8', 'c16')]
REFUSED = (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX, pickle.PERSID, pickle.EXT1, pickle.EXT2, pickle.EXT4)
_added: list[Callable | tuple[Callable, str]] = []  # to the list of torch, by allow_mmengine_checkpoints


class _Array(np.ndarray):
    """Stands for ``numpy.ndarray``, as a name: :func:`_new_array` makes the array."""

    def __new__(cls, *_: Any) -> '_Array':
        raise pickle.UnpicklingError('GLOBAL numpy.ndarray is called with arguments')


class _History(HistoryBuffer):
    """Stands for ``HistoryBuffer``, whose state could replace its statistics and methods; becomes one when it is complete."""

    def __init__(self, *_: Any) -> None:
        raise pickle.UnpicklingError('GLOBAL mmengine.logging.history_buffer.HistoryBuffer is called with arguments')

    def __setstate__(self, state: dict[str, Any]) -> None:
        numbers = {key: state[key] for key in (*ARRAYS, 'max_length')}
        are_numbers = all(
            type(numbers[key]) in (np.ndarray, _Array) and numbers[key].ndim == 1 and numbers[key].dtype.kind in 'biuf'
            for key in ARRAYS
        )
        if not (are_numbers and type(numbers['max_length']) is int):
            raise pickle.UnpicklingError('GLOBAL mmengine.logging.history_buffer.HistoryBuffer holds more than numbers')
        self._set_default_statistics()
        self.__dict__.update(numbers)
        self.__class__ = HistoryBuffer


def _new_array(kind: type, *_: Any) -> np.ndarray:
    """``_reconstruct`` of NumPy: an empty array, whose content follows as its state."""
    if kind not in (_Array, np.ndarray):
        raise pickle.UnpicklingError(f'GLOBAL {getattr(kind, "__name__", kind)} stands for an array')
    return np.ndarray((0,), 'i1')


def _number_type(code: Any, *copy: Any) -> np.dtype:
    """``dtype`` of NumPy, for numbers in the byte order of this machine; the one of NumPy itself, which takes no state."""
    for known in NUMBERS:
        if isinstance(code, str) and code.lstrip('<=|') in (known.str[1:], known.char):
            return known
    if np.dtype in _get_safe_globals():  # somebody has allowed more
        return np.dtype(code, *copy)
    raise pickle.UnpicklingError(f'GLOBAL numpy.dtype of {str(code)[:20]!r} is no type of numbers')


def _get_statistics_method(owner: type, name: str) -> Callable:
    """``getattr`` as MMEngine's checkpoints need it, and nothing else."""
    if owner not in (_History, HistoryBuffer) or name not in STATISTICS:
        raise pickle.UnpicklingError(f'GLOBAL builtins.getattr: a checkpoint may not look up {name!r} of {owner!r}')
    return getattr(HistoryBuffer, name)


def _bytes_of(text: str, encoding: str) -> bytes:
    """``_codecs.encode`` as protocol 2 of pickle writes bytes; another encoding would be imported by its name."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'GLOBAL _codecs.encode with the encoding {str(encoding)[:20]!r}')
    return text.encode(encoding)


# A name without a dot is none that a file can give. PyTorch may then complete these objects, but not make them.
ALLOWED: list[Callable | tuple[Callable, str]] = [
    (_History, f'{HistoryBuffer.__module__}.{HistoryBuffer.__qualname__}'),
    (HistoryBuffer, 'history'),
    (_Array, 'numpy.ndarray'),
    (np.ndarray, 'array'),
    (_number_type, 'numpy.dtype'),
    *((type(number), str(number)) for number in NUMBERS),
    (_get_statistics_method, 'builtins.getattr'),
    (argparse.Namespace, 'argparse.Namespace'),
    *(  # NumPy 1 and 2 write one name and read the other
        (function, f'{package}.multiarray.{name}')
        for package in ('numpy.core', 'numpy._core')
        for function, name in ((multiarray.scalar, 'scalar'), (_new_array, '_reconstruct'))
    ),
]


# What newer versions of PyTorch allow of themselves, and those before 2.6 not all of.
PLAIN: dict[str, Any] = {
    '_codecs.encode': _bytes_of,
    'builtins.set': set,
    'builtins.complex': complex,
    'collections.Counter': Counter,  # milestones of a schedule
    'torch.device': torch.device,
    'torch._utils._rebuild_qtensor': torch._utils._rebuild_qtensor,
    **{str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype | torch.qscheme)},
}


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load(weights_only=True)`` read the checkpoints that MMEngine's Runner writes.

    Allows exactly what they contain besides tensors and plain data: ``HistoryBuffer`` of the message hub, and NumPy arrays
    and scalars of numbers. ``argparse.Namespace`` is what the public training code keeps its options in. PyTorch before
    2.6 takes no names for what is allowed; there, only our own reader knows them.

    Source: ``MessageHub.state_dict`` and ``HistoryBuffer.__getstate__`` in MMEngine 0.10.
    """
    if CAN_ALLOW_TYPES:
        known = set(_get_safe_globals())
        _added.extend(entry for entry in ALLOWED if entry not in known)
        torch.serialization.add_safe_globals(ALLOWED)


def disallow_mmengine_checkpoints() -> None:
    """Undo :func:`allow_mmengine_checkpoints`; what others have allowed stays."""
    if CAN_ALLOW_TYPES:
        kept = [entry for entry in _get_safe_globals() if entry not in _added]
        _added.clear()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(kept)


def _get_safe_globals() -> list[Any]:
    return torch.serialization.get_safe_globals() if CAN_ALLOW_TYPES else []


class _WeightsUnpickler(pickle._Unpickler):  # the one in Python, which can be limited
    """Calls, makes and completes nothing but what is allowed, whichever way a file asks for it."""

    stack: list[Any]
    dispatch: ClassVar[dict[int, Callable]] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        """The object of a name, which may be one of Python 2, if it is allowed."""
        allowed = _allowed_by_name()
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        if f'{module}.{name}' not in allowed:
            raise pickle.UnpicklingError(f'GLOBAL {module}.{name} is not allowed')
        return allowed[f'{module}.{name}']

    def _check(self, kind: Any) -> None:
        if not any(kind is one for one in _allowed_by_name().values()):
            raise pickle.UnpicklingError(f'GLOBAL {getattr(kind, "__name__", kind)!s} is not allowed')

    def _refuse(self) -> None:
        raise pickle.UnpicklingError('GLOBAL with an instruction that no checkpoint needs')

    def _call(self) -> None:
        self._check(self.stack[-2])
        pickle._Unpickler.load_reduce(self)  # type: ignore[attr-defined]

    def _make(self) -> None:
        self._check(self.stack[-2])
        pickle._Unpickler.load_newobj(self)  # type: ignore[attr-defined]

    def _complete(self) -> None:
        if type(self.stack[-2]) not in (torch.Tensor, nn.Parameter, OrderedDict):
            self._check(type(self.stack[-2]))
        pickle._Unpickler.load_build(self)  # type: ignore[attr-defined]

    def _find_storage(self) -> None:
        if not (isinstance(self.stack[-1], tuple) and self.stack[-1] and self.stack[-1][0] in ('storage', b'storage')):
            raise pickle.UnpicklingError('GLOBAL as a persistent object that is no storage of a tensor')
        pickle._Unpickler.load_binpersid(self)  # type: ignore[attr-defined]

    dispatch.update(dict.fromkeys((opcode[0] for opcode in REFUSED), _refuse))
    dispatch.update({pickle.REDUCE[0]: _call, pickle.NEWOBJ[0]: _make, pickle.BUILD[0]: _complete})
    dispatch[pickle.BINPERSID[0]] = _find_storage


class WeightsPickle:
    """A ``pickle_module`` for ``torch.load`` that reads weights only, for PyTorch before 2.6, which has none of that kind."""

    Unpickler = _WeightsUnpickler

    @staticmethod
    def load(file: Any, **options: Any) -> Any:
        """As ``pickle.load``."""
        return _WeightsUnpickler(file, **options).load()


def _allowed_by_name() -> dict[str, Any]:
    """What PyTorch allows in itself, :data:`PLAIN` and :data:`ALLOWED`."""
    own = {name: one for one, name in (entry for entry in ALLOWED if isinstance(entry, tuple))}
    return {**torch._weights_only_unpickler._get_allowed_globals(), **PLAIN, **own}
