"""Batches at their place in a run: the order is that of the sampler, the augmentation that of the place."""

import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler, pseudo_collate
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset

from mmtwins.engine import batches as module
from mmtwins.engine.batches import PlacedBatches, SeededBatch, place_batches
from mmtwins.engine.config import load_config


class Numbers(Dataset):
    """Gives the index and random numbers; counts what is asked of it."""

    def __init__(self, length: int = 11) -> None:
        self.length = length
        self.infos = self.loaded = 0

    def __len__(self) -> int:
        return self.length

    def get_data_info(self, index: int) -> dict:
        self.infos += 1
        return dict(width=3 + index % 4, height=5, other='x')

    def __getitem__(self, index: int) -> tuple:
        self.loaded += 1
        return index, random.random(), np.random.rand(), float(torch.rand(1))


def indices(batches: Any, number: int) -> list[list[int]]:
    return [list(batch.indices) for _, batch in zip(range(number), batches)]


def stock_order(sampler: Any, batch_size: int, epochs: int) -> list[list[int]]:
    """What MMEngine's loops take from a finite sampler, epoch after epoch."""
    order = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        order += list(BatchSampler(sampler, batch_size, drop_last=False))
    return order


@pytest.mark.parametrize('skip', [0, 1, 3, 4, 9])
def test_the_order_is_that_of_the_sampler_from_the_place_on(skip: int) -> None:
    data = Numbers()
    infinite = BatchSampler(InfiniteSampler(data, seed=5), 3, drop_last=False)
    expected = [batch for _, batch in zip(range(14), infinite)]
    placed = PlacedBatches(BatchSampler(InfiniteSampler(data, seed=5), 3, drop_last=False), endless=True)
    placed.place(seed=1, skip=skip, first=skip)
    assert indices(placed, 14 - skip) == expected[skip:]
    expected = stock_order(DefaultSampler(data, seed=5), 3, epochs=3)  # 12 batches, the last of each epoch has 2
    placed = PlacedBatches(BatchSampler(DefaultSampler(data, seed=5), 3, drop_last=False), endless=True)
    placed.place(seed=1, skip=skip, first=skip)
    assert indices(placed, 12 - skip) == expected[skip:]
    assert data.loaded == 0


def test_an_epoch_ends_where_the_sampler_ends() -> None:
    placed = PlacedBatches(BatchSampler(DefaultSampler(Numbers(), seed=5), 3, drop_last=True), endless=False)
    assert list(placed) == []  # no place yet
    placed.place(seed=1, skip=0, first=0)
    assert len(placed) == len(list(placed)) == 3
    placed.place(seed=1, skip=3, first=3)
    assert list(placed) == []
    placed.place(seed=1, skip=9, first=9)
    assert list(placed) == []


def test_data_without_a_batch_are_refused() -> None:
    placed = PlacedBatches(BatchSampler(DefaultSampler(Numbers(2)), 3, drop_last=True), endless=True)
    placed.place(seed=1, skip=0, first=0)
    with pytest.raises(ValueError, match='the training data give no batch of 3'):
        next(iter(placed))


def test_two_gpus_place_samples_as_one_with_twice_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def places(rank: int, world_size: int, batch_size: int) -> Iterator[tuple[int, int]]:
        monkeypatch.setattr(module, 'get_dist_info', lambda: (rank, world_size))
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (rank, world_size))
        sampler = InfiniteSampler(Numbers(), seed=5)
        placed = PlacedBatches(BatchSampler(sampler, batch_size, drop_last=False), endless=True)
        placed.place(seed=1, skip=2, first=2)
        for _, batch in zip(range(3), placed):
            yield from zip(batch.positions, batch.indices)

    one = sorted(places(0, 1, 4))
    assert sorted([*places(0, 2, 2), *places(1, 2, 2)]) == one
    assert [position for position, _ in one] == list(range(8, 20))


def loader_over(data: Dataset, workers: int, skip: int) -> DataLoader:
    loader = DataLoader(data, 3, sampler=InfiniteSampler(data, seed=5), num_workers=workers, collate_fn=list)
    place_batches(loader, endless=True).place(seed=1, skip=skip, first=skip)
    return loader


@pytest.mark.parametrize('workers', [0, 1, 2])
def test_a_sample_is_augmented_by_its_place_whoever_loads_it(workers: int) -> None:
    expected = [batch for _, batch in zip(range(6), loader_over(Numbers(), 0, skip=0))]
    assert len({sample[1:] for batch in expected for sample in batch}) == 18
    random.seed(workers), np.random.seed(workers), torch.manual_seed(workers)
    iterator = iter(loader_over(Numbers(), workers, skip=2))
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert [next(iterator) for _ in range(4)] == expected[2:]
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_a_batch_can_be_sent_to_a_worker() -> None:
    batch = SeededBatch([4, 2], seed=3, positions=range(6, 10, 2))
    random.seed(0)
    state = random.getstate()
    copy = pickle.loads(pickle.dumps(batch))
    assert random.getstate() == state
    assert copy == batch
    assert len(copy) == 2
    drawn = [(index, random.random()) for index in copy]
    assert [index for index, _ in drawn] == [4, 2]
    assert drawn == [(index, random.random()) for index in batch]


def test_data_without_an_order_are_left_alone() -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Iterator[int]:
            return iter(range(3))

    for loader in (DataLoader(Stream()), DataLoader(Numbers(), batch_size=None)):
        before = loader.batch_sampler
        assert place_batches(loader, endless=True) is None
        assert loader.batch_sampler is before


def test_grouping_by_shape_asks_for_each_annotation_once() -> None:
    samplers = pytest.importorskip('mmdet.datasets.samplers')
    data = Numbers()

    def batches() -> Any:
        return samplers.AspectRatioBatchSampler(InfiniteSampler(data, seed=5), 3)

    expected = [batch for _, batch in zip(range(60), batches())]
    data.infos = 0
    placed = PlacedBatches(batches(), endless=True)
    placed.place(seed=1, skip=50, first=50)
    assert indices(placed, 10) == expected[50:]
    assert data.infos < len(data) + 10 * 3 * 3
    assert placed.sampler.dataset is data
    assert placed.batch_size == 3


def test_transforms_that_mix_images_draw_by_the_place_too(toy_data: Path) -> None:
    pytest.importorskip('mmdet')
    from mmdet.registry import DATASETS
    from mmengine.registry import init_default_scope
    from toys import DETECTOR

    init_default_scope('mmdet')
    cfg = load_config(str(DETECTOR), {'data_root': str(toy_data / 'coco')}).train_dataloader.dataset
    mixed = dict(
        type='MultiImageMixDataset',
        dataset=dict(cfg, pipeline=[cfg.pipeline[0], dict(type='LoadAnnotations', with_bbox=True)]),
        pipeline=[
            dict(type='Mosaic', img_scale=(64, 64)),
            dict(type='PhotoMetricDistortion'),
            dict(type='PackDetInputs'),
        ],
    )
    runs = []
    for workers in (0, 2):
        data = DATASETS.build(mixed)
        loader = DataLoader(
            data, 2, sampler=InfiniteSampler(data, seed=5), num_workers=workers, collate_fn=pseudo_collate
        )
        place_batches(loader, endless=True).place(seed=1, skip=0, first=0)
        runs.append([torch.cat([image.flatten() for image in batch['inputs']]) for _, batch in zip(range(3), loader)])
    assert all(torch.equal(*pair) for pair in zip(*runs))
