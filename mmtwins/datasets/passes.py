"""How much of the data a check looks at, and in how many processes."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .isolation import Outcome, map_isolated

SAMPLE = 200  # images or label images that the fast check looks into
SECONDS = 60.0  # for one image


@dataclass(frozen=True)
class Pass:
    """A whole pass over the data, or the fast one before a training.

    Attributes:
        fast: Look only at a sample of the images, and only at their headers, in this process.
        workers: Number of processes of a whole pass.
        progress: Show a progress bar.
    """

    fast: bool = False
    workers: int = 1
    progress: bool = False

    @classmethod
    def whole(cls, workers: int | None = None, progress: bool = False) -> 'Pass':
        """A whole pass; by default with one process per core."""
        return cls(False, workers or len(os.sched_getaffinity(0)), progress)

    def choose(self, indices: Sequence[int]) -> list[int]:
        """All indices, or in a fast pass an evenly spread sample."""
        if not self.fast or len(indices) <= SAMPLE:
            return list(indices)
        step = len(indices) / SAMPLE
        return [indices[int(i * step)] for i in range(SAMPLE)]

    def run(self, function: Callable[[int], Any], indices: Sequence[int], what: str) -> list[Outcome]:
        """Call a function on each index; returns the outcomes in their order."""
        if self.fast:
            return [_call(function, index) for index in self._bar(indices, len(indices), what)]
        outcomes: list[Outcome] = [Outcome(failure='was not read')] * len(indices)
        pairs = map_isolated(function, indices, self.workers, SECONDS)
        for place, outcome in self._bar(pairs, len(indices), what):
            outcomes[place] = outcome
        return outcomes

    def _bar(self, items: Iterable, total: int, what: str) -> Iterator:
        if not self.progress:
            return iter(items)
        from rich.console import Console
        from rich.progress import track

        return iter(track(items, what, total, console=Console(stderr=True), transient=True))


def _call(function: Callable[[int], Any], index: int) -> Outcome:
    try:
        return Outcome(function(index))
    except Exception as error:
        return Outcome(failure=f'{type(error).__name__}: {error}')
