"""Maps: the classes follow from the legend, and from nothing else."""

import numpy as np
import pytest

from mmtwins.study.maps import CLASSES, HUES, LEGEND, NUM_COLOURS, PATCHES, SHADES, draw_map


def hue_of(pixels: np.ndarray) -> np.ndarray:
    """Hue in degrees of pixels (N, 3)."""
    r, g, b = np.moveaxis(pixels.astype(float), 1, 0)
    return np.degrees(np.arctan2(np.sqrt(3) * (g - b), 2 * r - g - b)) % 360


def nearest(hues: np.ndarray) -> np.ndarray:
    """Index into HUES."""
    away = abs((hues[:, None] - np.array(HUES) + 180) % 360 - 180)
    return away.argmin(1)


def test_a_patch_has_the_class_whose_shade_stands_beside_its_colour() -> None:
    counts = set()
    for index in range(12):
        drawn = draw_map(0, 'train', index)
        legend = {}
        for row in range(256):
            (colour,) = nearest(hue_of(drawn.image[row, 230:231]))
            brightness = drawn.image[row, 250, 0] / 255
            shade = min(SHADES, key=lambda name: abs(SHADES[name] - brightness))
            assert drawn.labels[row, 230] == drawn.labels[row, 250] == CLASSES.index(shade)
            assert legend.setdefault(colour, shade) == shade
        patches = drawn.labels[:, : int(PATCHES * 256)]
        found = nearest(hue_of(drawn.image[:, : int(PATCHES * 256)][patches > 0]))
        expected = [CLASSES.index(legend[colour]) for colour in found]
        assert (patches[patches > 0] == expected).mean() > 0.98
        assert not drawn.labels[:, int(PATCHES * 256) : int(LEGEND * 256)].any()
        counts.add(len(legend))
    assert counts == set(range(NUM_COLOURS[0], NUM_COLOURS[1] + 1))


def test_a_colour_says_nothing_of_a_class() -> None:
    """Each class has about a third of the patches' pixels of every colour."""
    counts = np.zeros((len(HUES), len(CLASSES)))
    for index in range(400):
        drawn = draw_map(1, 'train', index, 64)
        patches = drawn.labels[:, :48]
        np.add.at(counts, (nearest(hue_of(drawn.image[:, :48][patches > 0])), patches[patches > 0]), 1)
    shares = counts[:, 1:] / counts[:, 1:].sum(1, keepdims=True)
    assert abs(shares - 1 / 3).max() < 0.12


@pytest.mark.parametrize('guess', [0, 1, None])
def test_who_does_not_see_the_legend_from_a_patch_has_a_low_miou(guess: int | None) -> None:
    """Even with the ground and the legend itself all right: patches as ground, all of one class, or at random."""
    rng = np.random.RandomState(0)
    pairs = np.zeros((len(CLASSES), len(CLASSES)))
    for index in range(60):
        labels = draw_map(0, 'val', index, 64).labels
        guessed = labels.copy()
        patches = guessed[:, :48]
        patches[patches > 0] = rng.randint(1, len(CLASSES), (patches > 0).sum()) if guess is None else guess
        np.add.at(pairs, (labels, guessed), 1)
    hits = np.diag(pairs)
    assert np.mean(hits / (pairs.sum(0) + pairs.sum(1) - hits)) < 0.75


def test_seed_split_and_index_decide_a_map() -> None:
    first, again = draw_map(3, 'val', 5, 64), draw_map(3, 'val', 5, 64)
    assert np.array_equal(first.image, again.image) and np.array_equal(first.labels, again.labels)
    for other in (draw_map(4, 'val', 5, 64), draw_map(3, 'train', 5, 64), draw_map(3, 'val', 6, 64)):
        assert not np.array_equal(first.image, other.image)
