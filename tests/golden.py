"""Deterministic weights and inputs behind the golden files.

A golden file stores no weights. Both sides draw every tensor from its own NumPy legacy generator, seeded by
the CRC-32 of the parameter's name in the reference implementation, so the same names and shapes give the same
numbers on any machine (``numpy.random.RandomState`` is frozen by NumPy's compatibility policy).
"""

import json
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import torch


def golden_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 array of ``shape`` for the parameter ``name`` (the reference implementation's own name).

    1-D ``*.weight`` (norm scales): 1 + 0.1 n; 1-D ``*.bias``: 0.05 n; anything else: n / sqrt(fan_in), where n is
    standard normal and fan_in the product of all dimensions but the first.
    """
    n = np.random.RandomState(zlib.crc32(name.encode()) & 0xFFFFFFFF).standard_normal(shape)
    if len(shape) > 1:
        return np.asarray(n / np.sqrt(np.prod(shape[1:])), dtype=np.float32)
    return np.asarray(1 + 0.1 * n if name.endswith('weight') else 0.05 * n, dtype=np.float32)


def golden_input(height: int, width: int, batch: int = 1) -> np.ndarray:
    """Float32 image batch, (batch, 3, height, width), standard normal, seed 20210413."""
    return np.random.RandomState(20210413).standard_normal((batch, 3, height, width)).astype(np.float32)


def golden_positions(numel: int) -> np.ndarray:
    """64 flat indices into a C-contiguous (B, C, H, W) feature map of ``numel`` elements, seed 7."""
    return np.random.RandomState(7).randint(0, numel, size=64)


def load_golden(name: str) -> dict:
    """``tests/data/NAME.json``: ``parameters`` (shapes by name) and ``cases`` (sizes, values per stage)."""
    return json.loads((Path(__file__).parent / 'data' / f'{name}.json').read_text())


@cache
def golden_state_dict(name: str) -> dict[str, torch.Tensor]:
    """The reference implementation's state dict behind ``tests/data/NAME.json``."""
    shapes = load_golden(name)['parameters']
    return {key: torch.from_numpy(golden_tensor(key, tuple(shape))) for key, shape in shapes.items()}
