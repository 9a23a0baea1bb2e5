"""Generated scenes: a textured ground (``grass``, ``sand``, ``water``) with things lying on it.

Things lie over one another and are cut off by the border. As with real things no single cue names a class: each has its own
mix of hue range, pattern and outline, all of which overlap with those of other classes.

Drawing uses NumPy's frozen ``RandomState`` and correctly rounded arithmetic only, so a seed gives the same pixels on every
machine.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np

MIN_PART = 16  # a visible part of a thing with fewer pixels is labelled 0 (other) and left out of the instance


class Ground(NamedTuple):
    """A class that covers a region (stuff)."""

    name: str
    hue: tuple[float, float]  # centre and half width, in degrees
    texture: str
    colour: tuple[int, int, int]  # of the class in pictures, RGB


class Thing(NamedTuple):
    """A class of countable objects; patterns and outlines carry their probabilities."""

    name: str
    hue: tuple[float, float]
    patterns: dict[str, float]
    outlines: dict[str, float]
    colour: tuple[int, int, int]


# The colours are Paul Tol's "muted" scheme, which colour-blind readers can tell apart.
GROUNDS = (
    Ground('grass', (110, 75), 'blades', (17, 119, 51)),
    Ground('sand', (40, 75), 'grains', (221, 204, 119)),
    Ground('water', (190, 75), 'ripples', (136, 204, 238)),
)
THINGS = (
    Thing('ball', (0, 40), {'sectors': 0.8, 'dots': 0.2}, {'disc': 0.85, 'hexagon': 0.15}, (204, 102, 119)),
    Thing('kite', (60, 40), {'checker': 0.8, 'stripes': 0.2}, {'triangle': 0.8, 'rhombus': 0.2}, (51, 34, 136)),
    Thing('starfish', (300, 40), {'dots': 0.8, 'plain': 0.2}, {'star': 0.85, 'cross': 0.15}, (170, 68, 153)),
    Thing('crate', (120, 40), {'stripes': 0.8, 'checker': 0.2}, {'rectangle': 0.85, 'rhombus': 0.15}, (153, 153, 51)),
    Thing('buoy', (240, 40), {'rings': 0.8, 'sectors': 0.2}, {'ring': 0.8, 'disc': 0.2}, (136, 34, 85)),
    Thing('windmill', (180, 40), {'plain': 0.8, 'rings': 0.2}, {'cross': 0.85, 'star': 0.15}, (68, 170, 153)),
)
CLASSES = tuple(c.name for c in GROUNDS + THINGS)  # class i has the value i + 1 in the annotation images
THING_CLASSES = tuple(c.name for c in THINGS)  # thing i has the COCO category id i + 1
PALETTE = tuple(c.colour for c in GROUNDS + THINGS)
SPLITS = {'train': 'training', 'val': 'validation'}  # COCO's name: ADE20K's name


class Scene(NamedTuple):
    """A drawn scene.

    ``image`` is (H, W, 3) RGB uint8, ``labels`` (H, W) uint8 with 0 = other and class i as i + 1; ``instances`` holds
    (index into ``THINGS``, visible mask (H, W) bool) from back to front, and ``hidden`` the share of each instance's
    pixels, border included, that others or the border hide.
    """

    image: np.ndarray
    labels: np.ndarray
    instances: list[tuple[int, np.ndarray]]
    hidden: list[float]


def _rgb(hue: np.ndarray | float, saturation: np.ndarray | float, value: np.ndarray | float) -> np.ndarray:
    """HSV (hue in degrees, the rest in 0..1; they broadcast) to RGB in 0..1, (..., 3)."""
    hue, saturation, value = np.broadcast_arrays(hue, saturation, value)
    k = (np.array([5.0, 3.0, 1.0]) + hue[..., None] / 60) % 6
    return value[..., None] * (1 - saturation[..., None] * np.clip(np.minimum(k, 4 - k), 0, 1))


def _smooth_noise(rng: np.random.RandomState, size: int, cells_y: int, cells_x: int) -> np.ndarray:
    """(size, size) noise in 0..1, bilinear between (cells_y + 1) x (cells_x + 1) random values."""
    grid = rng.random_sample((cells_y + 1, cells_x + 1))
    y, x = (np.arange(size) * (cells / size) for cells in (cells_y, cells_x))
    row, column = y.astype(int), x.astype(int)
    y, x = (y - row)[:, None], (x - column)[None]
    top = grid[row][:, column] * (1 - x) + grid[row][:, column + 1] * x
    bottom = grid[row + 1][:, column] * (1 - x) + grid[row + 1][:, column + 1] * x
    return top * (1 - y) + bottom * y


def _texture(rng: np.random.RandomState, name: str, size: int) -> np.ndarray:
    """Brightness of a ground's texture, (size, size) in 0..1."""
    blotches = _smooth_noise(rng, size, 4, 4)
    if name == 'blades':
        fine = _smooth_noise(rng, size, size // 8, size // 2)
    elif name == 'grains':
        fine = rng.random_sample((size, size))
    else:
        rows = np.arange(size)[:, None] / rng.uniform(7, 11) + 2 * _smooth_noise(rng, size, 4, 8)
        fine = np.abs(rows % 1 * 2 - 1)
    return 0.35 * blotches + 0.65 * fine


def _outline(name: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Which points, in units of the thing's radius, lie inside the outline."""
    if name == 'disc':
        return u * u + v * v < 1
    if name == 'ring':
        squared = u * u + v * v
        return (squared < 1) & (squared > 0.2)
    if name == 'rectangle':
        return (np.abs(u) < 0.95) & (np.abs(v) < 0.7)
    if name == 'rhombus':
        return np.abs(u) + 1.4 * np.abs(v) < 1.1
    if name == 'cross':
        return (np.minimum(np.abs(u), np.abs(v)) < 0.36) & (np.maximum(np.abs(u), np.abs(v)) < 1)
    # The others are regular polygons. A star is where at most one of five sides is crossed.
    sides, distance, crossed = {'triangle': (3, 0.55, 0), 'hexagon': (6, 0.87, 0), 'star': (5, 0.42, 1)}[name]
    outside = np.zeros(u.shape, int)
    for k in range(sides):
        angle = 2 * math.pi * k / sides
        outside += u * round(math.cos(angle), 9) + v * round(math.sin(angle), 9) > distance
    return outside <= crossed


def _pattern(rng: np.random.RandomState, name: str, u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    """Where a thing shows its second colour, as a mask; the periods are in pixels, so larger things show more of them."""
    period = rng.uniform(7, 11) / radius
    if name == 'plain':
        return np.zeros(u.shape, bool)
    if name == 'stripes':
        return u / period % 1 < 0.5
    if name == 'checker':
        return (u / period % 1 < 0.5) ^ (v / period % 1 < 0.5)
    if name == 'dots':
        x, y = u / period % 1 - 0.5, v / period % 1 - 0.5
        return x * x + y * y < 0.1
    if name == 'rings':
        return np.sqrt(u * u + v * v) / period % 1 < 0.5
    return (u > 0) ^ (v > 0) ^ (np.abs(u) > np.abs(v))  # sectors


def _choose(rng: np.random.RandomState, weights: dict[str, float]) -> str:
    """A key, with the probabilities given as values."""
    threshold = rng.random_sample()
    *others, last = weights
    for name in others:
        threshold -= weights[name]
        if threshold < 0:
            return name
    return last


def _draw_ground(rng: np.random.RandomState, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Image (size, size, 3) in 0..1 and labels (size, size) of one to three regions with wavy borders."""
    order = rng.permutation(len(GROUNDS))[: 1 + rng.randint(3)]
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.mgrid[:size, :size] / size - 0.5
    level = x * round(math.cos(angle), 9) + y * round(math.sin(angle), 9) + 0.3 * (_smooth_noise(rng, size, 4, 4) - 0.5)
    shift = rng.uniform(-0.15, 0.15)
    borders = {1: [], 2: [shift], 3: [shift - 0.2, shift + 0.2]}[len(order)]
    region = np.zeros((size, size), int)
    for border in borders:
        region += level > border
    image = np.zeros((size, size, 3))
    for i, index in enumerate(order):
        ground = GROUNDS[index]
        hue = ground.hue[0] + rng.uniform(-1, 1) * ground.hue[1]
        saturation, value, contrast = rng.uniform(0.25, 0.8), rng.uniform(0.45, 0.95), rng.uniform(0.3, 0.5)
        brightness = value * (1 - contrast + contrast * _texture(rng, ground.texture, size))
        image = np.where((region == i)[..., None], _rgb(hue, saturation, brightness), image)
    return image, (order[region] + 1).astype(np.uint8)


def _draw_thing(
    rng: np.random.RandomState, image: np.ndarray, thing: Thing, centre: tuple[float, float], radius: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Draw a thing over an image (H, W, 3).

    Returns:
        The new image, the thing's mask (H, W) bool, and its whole area in pixels, what the border cuts off included.
    """
    size = len(image)
    angle, stretch = rng.uniform(0, 2 * math.pi), rng.uniform(0.8, 1.0)
    cos, sin = round(math.cos(angle), 9), round(math.sin(angle), 9)
    low = [math.floor(c - 1.5 * radius) for c in centre]
    side = math.ceil(3 * radius) + 1
    y, x = np.mgrid[low[0] : low[0] + side, low[1] : low[1] + side] + 0.5
    y, x = y - centre[0], x - centre[1]
    u, v = (x * cos + y * sin) / radius, (y * cos - x * sin) / (radius * stretch)
    inside = _outline(_choose(rng, thing.outlines), u, v)
    second = _pattern(rng, _choose(rng, thing.patterns), u, v, radius)

    hue = thing.hue[0] + rng.uniform(-1, 1) * thing.hue[1]
    saturation, value = rng.uniform(0.45, 1), rng.uniform(0.5, 1)
    first_colour = _rgb(hue, saturation, value)
    second_colour = [
        _rgb(hue, 0.3 * saturation, 1),
        _rgb(hue, saturation, 0.45 * value),
        _rgb(hue + rng.uniform(90, 270), saturation, value),
    ][rng.randint(3)]
    light = 1 + 0.2 * np.clip(u + v, -1, 1)
    colours = np.where(second[..., None], second_colour, first_colour) * light[..., None]

    rows, columns = (slice(max(0, a), min(size, a + side)) for a in low)
    part = tuple(slice(s.start - a, s.stop - a) for s, a in zip((rows, columns), low))
    mask = np.zeros((size, size), bool)
    mask[rows, columns] = inside[part]
    image = image.copy()
    image[rows, columns] = np.where(inside[part][..., None], colours[part], image[rows, columns])
    return image, mask, int(inside.sum())


def draw_scene(seed: int, split: str, index: int, size: int = 128) -> Scene:
    """Draw one scene.

    Args:
        seed: Of the dataset.
        split: ``'train'`` or ``'val'``; the same index gives different scenes.
        index: Number of the scene in its split.
        size: Side of the image, in pixels.
    """
    rng = np.random.RandomState([seed, list(SPLITS).index(split), index])
    image, labels = _draw_ground(rng, size)
    count = 3 + rng.randint(4)
    things: list[int] = []
    visible: list[np.ndarray] = []
    areas: list[int] = []
    for _ in range(6 * count):
        if len(things) == count:
            break
        radius = round(size * 2 ** rng.uniform(-3, -1.9), 6)
        centre = tuple(rng.uniform(0.06 * size, 0.94 * size, 2))
        index = rng.randint(len(THINGS))
        new_image, mask, area = _draw_thing(rng, image, THINGS[index], centre, radius)
        remaining = [m & ~mask for m in visible] + [mask]
        # The new thing is placed only if at least two fifths of every thing stay visible.
        if all(m.sum() >= 0.4 * a for m, a in zip(remaining, [*areas, area])):
            image, visible, areas = new_image, remaining, [*areas, area]
            things.append(index)

    instances = []
    for thing, mask in zip(things, visible):
        kept = _without_small_parts(mask)
        labels[mask] = 0
        labels[kept] = len(GROUNDS) + thing + 1
        instances.append((thing, kept))
    light = 0.8 + 0.4 * _smooth_noise(rng, size, 2, 2)
    noise = rng.uniform(-0.04, 0.04, image.shape)
    image = np.clip((image * light[..., None] + noise) * 255 + 0.5, 0, 255).astype(np.uint8)
    hidden = [1 - m.sum() / a for m, a in zip(visible, areas)]
    return Scene(image, labels, instances, hidden)


def _without_small_parts(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W) without its connected parts of fewer than ``MIN_PART`` pixels."""
    _, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    large = np.bincount(parts.ravel()) >= MIN_PART
    large[0] = False
    return large[parts]
