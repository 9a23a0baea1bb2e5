"""Generated maps whose colours mean what a legend at the right border says: a class shows only together with the legend.

A map has patches of three to six colours on a grey ground. The legend has a field for each colour: its left half has the
colour, its right half a shade, and the shade is the class. The patches of a colour have the class whose shade stands beside
this colour. Which shade a colour has is drawn anew for each map, colour by colour, so neither a patch nor all patches
together say anything of their classes.

Drawing uses NumPy's frozen ``RandomState``, so a seed gives the same pixels on every machine.
"""

import math
from typing import NamedTuple

import numpy as np

SHADES = {'dark': 0.05, 'middle': 0.5, 'light': 0.98}  # brightness by class
CLASSES = ('ground', *SHADES)  # class i has the value i in the annotation images
PALETTE = ((200, 200, 200), (51, 34, 136), (68, 170, 153), (221, 204, 119))
HUES = (0.0, 60.0, 120.0, 180.0, 240.0, 300.0)  # degrees
NUM_COLOURS = (3, 6)
NUM_PATCHES = (6, 9)
SPLITS = {'train': 'training', 'val': 'validation'}  # our name: name of the folder
# Lengths are shares of the side of a map.
LEGEND = 7 / 8  # where the strip of the legend begins
PATCHES = 3 / 4  # no patch lies right of it
RADII = (0.045, 0.09)


class Map(NamedTuple):
    """A drawn map.

    ``image`` is (H, W, 3) RGB uint8, ``labels`` (H, W) uint8, ``classes`` the class of each colour in the legend, from top to
    bottom.
    """

    image: np.ndarray
    labels: np.ndarray
    classes: tuple[int, ...]


def draw_map(seed: int, split: str, index: int, size: int = 256) -> Map:
    """Draw one map.

    Args:
        seed: Of the data set.
        split: ``'train'`` or ``'val'``; the same index gives different maps.
        index: Number of the map in its split.
        size: Side of the image, in pixels.

    Returns:
        The map.
    """
    rng = np.random.RandomState([seed, list(SPLITS).index(split), index])
    hues = np.array(HUES)[rng.permutation(len(HUES))][: rng.randint(NUM_COLOURS[0], NUM_COLOURS[1] + 1)]
    classes = tuple(int(label) for label in 1 + rng.randint(len(SHADES), size=len(hues)))
    image = np.repeat((0.45 + 0.25 * _smooth_noise(rng, size, 6))[..., None], 3, axis=2)
    labels = np.zeros((size, size), np.uint8)
    for centre, radius in _place_patches(rng, size):
        colour = rng.randint(len(hues))
        box, u, v = _around(centre, radius, size)
        inside = _inside_patch(rng, u, v)
        image[box][inside] = _shade_of(rng, hues[colour])
        labels[box][inside] = classes[colour]
    left, middle = (math.ceil(share * size) for share in (LEGEND, (1 + LEGEND) / 2))
    edges = [round(i * size / len(hues)) for i in range(len(hues) + 1)]
    for hue, label, top, bottom in zip(hues, classes, edges, edges[1:]):
        image[top:bottom, left:middle] = _shade_of(rng, hue)
        image[top:bottom, middle:] = SHADES[CLASSES[label]]
        labels[top:bottom, left:] = label
    return Map((image * 255 + 0.5).astype(np.uint8), labels, classes)


def _smooth_noise(rng: np.random.RandomState, size: int, cells: int) -> np.ndarray:
    """(size, size) noise in 0..1, bilinear between random values."""
    grid = rng.random_sample((cells + 1, cells + 1))
    place = np.arange(size) * (cells / size)
    cell = place.astype(int)
    share = place - cell
    rows = grid[cell] * (1 - share)[:, None] + grid[cell + 1] * share[:, None]
    return rows[:, cell] * (1 - share) + rows[:, cell + 1] * share


def _place_patches(rng: np.random.RandomState, size: int) -> list[tuple[tuple[float, float], float]]:
    """Centres (y, x) and radii of patches that do not touch, in pixels."""
    number = rng.randint(NUM_PATCHES[0], NUM_PATCHES[1] + 1)
    placed: list[tuple[tuple[float, float], float]] = []
    for _ in range(20 * number):
        radius = rng.uniform(*RADII) * size
        centre = (rng.uniform(radius, size - radius), rng.uniform(radius, PATCHES * size - radius))
        if len(placed) < number and all(math.dist(centre, c) > 1.1 * (radius + r) for c, r in placed):
            placed.append((centre, radius))
    return placed


def _around(
    centre: tuple[float, float], radius: float, size: int
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """The box of a map that holds a disc, and x and y of its pixels from the centre, in units of the radius."""
    rows, columns = (slice(max(math.floor(c - radius), 0), min(math.ceil(c + radius), size)) for c in centre)
    v, u = np.mgrid[rows, columns]
    return (rows, columns), (u + 0.5 - centre[1]) / radius, (v + 0.5 - centre[0]) / radius


def _inside_patch(rng: np.random.RandomState, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Which points, in units of the radius, belong to a patch with a wavy border."""
    waves, phase = rng.randint(2, 6), rng.uniform(0, 2 * math.pi)
    return np.hypot(u, v) < 0.85 + 0.15 * np.sin(waves * np.arctan2(v, u) + phase)


def _shade_of(rng: np.random.RandomState, hue: float) -> np.ndarray:
    """A shade of a hue, RGB in 0..1."""
    hue, saturation, value = hue + rng.uniform(-15, 15), rng.uniform(0.6, 0.95), rng.uniform(0.7, 0.95)
    k = (np.array([5.0, 3.0, 1.0]) + hue / 60) % 6
    return value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))
