"""Masks: run lengths are decoded as pycocotools does where it does not look, and each fault is found."""

import numpy as np
import pytest
from pycocotools import mask as mask_api

from mmtwins.datasets.coco_masks import decode_counts, inspect_masks
from mmtwins.masks import encode_mask

SIZE = (20, 30)
SQUARE = [2.0, 3.0, 12.0, 3.0, 12.0, 13.0, 2.0, 13.0]


@pytest.mark.parametrize('seed', range(20))
def test_compressed_run_lengths_are_those_of_the_mask(seed: int) -> None:
    rng = np.random.RandomState(seed)
    mask = rng.rand(*rng.randint(1, 300, 2)) < rng.choice([0.001, 0.1, 0.5, 0.999])
    flat = np.concatenate([[False], mask.ravel('F')])
    ends = np.flatnonzero(np.diff(flat.astype(int), append=-1))
    runs = decode_counts(encode_mask(mask)['counts'])
    assert runs is not None and runs.tolist() == np.diff(ends, prepend=0).tolist()


@pytest.mark.parametrize('text', ['', '\x00', '~~~', 'é', 'PP ', 'o', '`' * 9 + '0'])
def test_what_is_no_compressed_code(text: str) -> None:
    assert decode_counts(text) is None


def test_extents_and_usable_masks() -> None:
    mask = np.zeros(SIZE, bool)
    mask[4:9, 6:16] = True
    code = encode_mask(mask)
    runs = dict(size=list(SIZE), counts=decode_counts(code['counts']).tolist())
    masks = inspect_masks([[SQUARE], [SQUARE, [20.0, 15.0, 25.0, 15.0, 25.0, 18.0]], code, runs], np.array([SIZE] * 4))
    assert masks.usable.all() and not masks.faults
    assert masks.extents.tolist() == [[2, 3, 12, 13], [2, 3, 25, 18], [6, 4, 16, 9], [6, 4, 16, 9]]


FAULTY = {
    'missing': [None, [], {}, 0],
    'shape': [
        SQUARE,
        'text',
        7,
        [[1.0, 2.0, float('nan'), 4.0, 5.0, 6.0]],
        [[1.0, 2.0, float('inf'), 4.0, 5.0, 6.0]],
        [[None] * 6],
        [['1'] * 6],
        [[True] * 6],
        [[1e30] * 6],
        dict(size=[20, 30]),
        dict(size=[20, 30], counts=None),
        dict(size=[20, 30], counts=[-1, 601]),
        dict(size='ab', counts='x'),
        dict(size=[20, 30], counts=[2**40]),
    ],
    'short': [[[1.0, 2.0, 3.0, 4.0]], [[]], [[1.0] * 7], [[1.0, 2.0], [3.0, 4.0]]],
    'far': [[[100.0 * value for value in SQUARE]], [[1e5] * 6]],
    'size': [dict(size=[30, 20], counts=[600]), dict(size=[10**6, 10**6], counts='PP')],
    'counts': [
        dict(size=[20, 30], counts=[600, 1]),
        dict(size=[20, 30], counts=[5]),
        dict(size=[20, 30], counts='50'),
        dict(size=[20, 30], counts='~~'),
        dict(size=[20, 30], counts=[]),
    ],
}


@pytest.mark.parametrize('fault', FAULTY)
def test_faults(fault: str) -> None:
    entries = FAULTY[fault]
    masks = inspect_masks(entries, np.array([SIZE] * len(entries)))
    assert masks.faults[fault] == list(range(len(entries)))
    assert not masks.usable.any()
    assert sorted(masks.details) == (masks.faults[fault] if fault in ('size', 'counts') else [])


def test_masks_that_train_all_the_same() -> None:
    entries = [
        [SQUARE, [1.0, 2.0]],
        [[value + 15 for value in SQUARE]],
        [[5.0] * 6],
        dict(size=list(SIZE), counts=[600]),
    ]
    masks = inspect_masks(entries, np.array([SIZE] * 4))
    assert masks.usable.all()
    assert masks.faults == dict(short=[0], outside=[1], empty=[2, 3])
    assert mask_api.decode(mask_api.frPyObjects(entries[0][:1], *SIZE)).any()
