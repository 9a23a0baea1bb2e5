"""Batches that know their place in a run: the order of the data, and the random numbers that augment each sample."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from mmengine.dist import get_dist_info
from torch.utils.data import DataLoader, IterableDataset

from .random_states import SAMPLE, kept_random_states, seed_random_numbers


@dataclass(frozen=True)
class SeededBatch:
    """Indices of a batch, which seed the random numbers of each sample when somebody goes through them.

    PyTorch's DataLoader does so where it loads the samples, in a worker or in this process. So any data set and any
    transform draw the same numbers for a sample, whoever loads it.

    Args:
        indices: Of samples in the data set.
        seed: Of the run.
        positions: Place of each sample in the run.
    """

    indices: Sequence[Any]
    seed: int
    positions: range

    def __iter__(self) -> Iterator[Any]:
        with kept_random_states():
            for index, position in zip(self.indices, self.positions):
                seed_random_numbers(self.seed, SAMPLE, position)
                yield index

    def __len__(self) -> int:
        return len(self.indices)


class PlacedBatches:
    """The batches of another batch sampler, from a place in the run on, as a batch sampler.

    Gives no batch before :meth:`place` is called, so that nothing is loaded before a checkpoint has told the place.

    Args:
        batches: The batch sampler; its order is kept.
        endless: Whether it starts over, in the order of the next epoch, where it ends.
    """

    def __init__(self, batches: Any, endless: bool) -> None:
        self.batches = batches
        self.endless = endless
        self.sampler = getattr(batches, 'sampler', None)
        self.batch_size = getattr(batches, 'batch_size', 1)
        self.drop_last = getattr(batches, 'drop_last', False)
        self._place: tuple[int, int, int] | None = None

    def place(self, seed: int, skip: int, first: int) -> None:
        """Say where the next iteration over the batches begins.

        Args:
            seed: Of the run.
            skip: How many batches to pass over. Their images are not read.
            first: Number of the batch behind these, counted from the start of the run.
        """
        self._place = (seed, skip, first)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[SeededBatch]:
        if self._place is None:
            return
        seed, skip, number = self._place
        rank, world_size = get_dist_info()
        sizes = self.batch_size if isinstance(self.batch_size, Sequence) else [self.batch_size]
        batches = self._in_order()
        with _quick_annotations(self.sampler):
            for _ in range(skip):
                if next(batches, None) is None:
                    return
        for indices in batches:
            # The place in the batch of all GPUs together, as one GPU with such a batch would count.
            start = number * max(sizes) * world_size + rank
            yield SeededBatch(indices, seed, range(start, start + len(indices) * world_size, world_size))
            number += 1

    def _in_order(self) -> Iterator[Sequence[Any]]:
        """The other sampler's batches, epoch after epoch if endless."""
        for epoch in count():
            is_empty = True
            for batch in self.batches:
                is_empty = False
                yield batch
            if not self.endless:
                return
            if is_empty:
                raise ValueError(f'the training data give no batch of {self.batch_size}: make it smaller, or add data')
            if self.sampler is not None and hasattr(self.sampler, 'set_epoch'):
                self.sampler.set_epoch(epoch + 1)


def place_batches(loader: DataLoader, endless: bool) -> PlacedBatches | None:
    """Let a data loader, not iterated yet, take its batches from :class:`PlacedBatches`, in place.

    Args:
        loader: The data loader.
        endless: As for :class:`PlacedBatches`.

    Returns:
        Its batch sampler; None if the data set has no order that could be continued.
    """
    if loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
        return None
    batches = PlacedBatches(loader.batch_sampler, endless)
    object.__setattr__(loader, 'batch_sampler', batches)  # DataLoader refuses it, because of iterators under way
    return batches


class _SizesOnly:
    """Stands in for a data set where only sizes of images are wanted, and looks each up once."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._known: dict[int, dict] = {}

    def get_data_info(self, index: int) -> dict:
        if index not in self._known:
            info = self._dataset.get_data_info(index)
            if not {'width', 'height'} <= info.keys():
                return info
            self._known[index] = {key: info[key] for key in ('width', 'height')}
        return self._known[index]

    def __len__(self) -> int:
        return len(self._dataset)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)


@contextmanager
def _quick_annotations(sampler: Any) -> Iterator[None]:
    """Read each annotation once: batch samplers that group images by shape ask for it at every index."""
    dataset = getattr(sampler, 'dataset', None)
    if not hasattr(dataset, 'get_data_info'):
        yield
        return
    sampler.dataset = _SizesOnly(dataset)
    try:
        yield
    finally:
        sampler.dataset = dataset
