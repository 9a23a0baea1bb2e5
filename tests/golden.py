"""Deterministic weights and inputs behind the golden files.

A golden file stores no weights. Both sides draw every tensor from its own NumPy legacy generator, seeded by
the CRC-32 of the parameter's name in the reference implementation, so the same names and shapes give the same
numbers on any machine (``numpy.random.RandomState`` is frozen by NumPy's compatibility policy).

``timm_classifiers.json`` holds logits of timm's six classifiers instead of features, the same 64 positions of (2, 1000).

The files in ``tests/data/recipes/`` hold one training step of a whole model of the public code: losses, norms of the gradients
and of what AdamW changed. Their weights, images and annotations are drawn in the same way.
"""

import json
import zlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

# Layers before a loss whose golden weights and biases are multiplied, so that the losses of a step stay small.
DAMPED = dict.fromkeys(('conv_seg', 'rpn_cls', 'fc_cls', 'retina_cls', 'conv_logits'), 0.1)
DAMPED |= dict.fromkeys(('rpn_reg', 'fc_reg', 'retina_reg'), 0.01)
SAMPLER_SEED = 5  # of torch and NumPy right before the losses of a step: detectors choose anchors and RoIs at random


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


def golden_step_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """``golden_tensor`` for a parameter of a whole model, damped in the layers before a loss."""
    factors = [factor for layer, factor in DAMPED.items() if layer in name.split('.')]
    return golden_tensor(name, shape) * np.float32(factors[0] if factors else 1)


def golden_images(height: int, width: int) -> np.ndarray:
    """What the network of a golden step sees after the data preprocessor: (2, 3, height, width) float32, standard normal."""
    return np.random.RandomState(11).standard_normal((2, 3, height, width)).astype(np.float32)


def golden_labels(height: int, width: int) -> np.ndarray:
    """(2, 1, height, width) int64: squares of 8 x 8 pixels with one of 150 classes each; the first ten rows are 255."""
    squares = np.random.RandomState(12).randint(0, 150, (2, 1, height // 8, width // 8))
    labels = np.kron(squares, np.ones((8, 8), int))
    labels[:, :, :10] = 255
    return labels


class Objects(NamedTuple):
    """The five objects of an image: boxes (5, 4) float32 x1 y1 x2 y2 in pixels, labels (5,), masks (5, H, W) uint8."""

    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray


def golden_objects(height: int, width: int) -> list[Objects]:
    """For each of the two images, five ellipses of one of 80 classes each in boxes that lie inside the image."""
    random = np.random.RandomState(13)
    y, x = np.ogrid[:height, :width]

    def draw() -> tuple[list[float], int, np.ndarray]:
        w, h = (random.uniform(20, 0.7 * side) for side in (width, height))
        left, top = random.uniform(0, width - w), random.uniform(0, height - h)
        ellipse = ((x - left - w / 2) / (w / 2)) ** 2 + ((y - top - h / 2) / (h / 2)) ** 2 < 1
        return [left, top, left + w, top + h], random.randint(80), ellipse

    images = [list(zip(*(draw() for _ in range(5)))) for _ in range(2)]
    return [Objects(np.float32(boxes), np.int64(labels), np.uint8(masks)) for boxes, labels, masks in images]
