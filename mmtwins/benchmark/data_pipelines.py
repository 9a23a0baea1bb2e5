"""Images per second of the data pipeline of a config, and the time of its transforms."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .real_batches import LOADERS, build_loader, load_with_data

WARM_UP_BATCHES = 2


@dataclass(frozen=True)
class PipelineTiming:
    """What a pipeline takes.

    Attributes:
        images: Number of different images.
        transforms: Mean seconds of each transform for an image, in their order; ``'annotation'`` is what the data set
            looks up before.
        rates: Images per second by number of workers; 0 loads in the process that trains.
    """

    images: int
    transforms: dict[str, float]
    rates: dict[int, float]


def measure_pipeline(
    config: str,
    data_root: str | None = None,
    work: str = 'training',
    batch: int | None = None,
    workers: Sequence[int] = (0, 1, 2),
    samples: int = 100,
) -> PipelineTiming:
    """Measure how fast a config's data is loaded.

    Args:
        config: Name of a recipe or config file.
        data_root: Folder of the data; None takes the config's.
        work: ``'training'`` or ``'inference'``: which pipeline.
        batch: Images at once; None takes the config's.
        workers: Numbers of processes to try.
        samples: Images to load for each number; they repeat if there are fewer.

    Returns:
        The timing.

    Raises:
        ValueError: There is no such data.
    """
    cfg = load_with_data(config, data_root)
    batch = batch or cfg[LOADERS[work]].get('batch_size') or 1
    dataset: Any = build_loader(cfg, work, batch, 0).dataset
    transforms = time_transforms(dataset, samples)
    rates = {number: _images_per_second(build_loader(cfg, work, batch, number), batch, samples) for number in workers}
    return PipelineTiming(len(dataset), transforms, rates)


def time_transforms(dataset: Any, samples: int) -> dict[str, float]:
    """Run the transforms of a data set one by one.

    Args:
        dataset: With a ``pipeline`` as MMEngine's ``BaseDataset`` has it.
        samples: Images to load; they repeat if there are fewer.

    Returns:
        Mean seconds per image by transform. A transform that occurs twice gets a number.

    Raises:
        ValueError: The data set has no such pipeline.
    """
    while not hasattr(dataset, 'pipeline') and hasattr(dataset, 'dataset'):  # as one that repeats another
        dataset = dataset.dataset
    if not hasattr(getattr(dataset, 'pipeline', None), 'transforms'):
        raise ValueError(f'{type(dataset).__name__} has no pipeline of its own: give a config with one plain data set')
    kinds = [type(transform).__name__ for transform in dataset.pipeline.transforms]
    names = [f'{kind} {n + 1}' if (n := kinds[:i].count(kind)) else kind for i, kind in enumerate(kinds)]
    seconds = dict.fromkeys(['annotation', *names], 0.0)
    for warm_up in (True, False):
        for number in range(min(samples, len(dataset)) if warm_up else samples):
            start = time.perf_counter()
            data = dataset.get_data_info(number % len(dataset))
            laps = {'annotation': time.perf_counter() - start}
            for name, transform in zip(names, dataset.pipeline.transforms, strict=True):
                start = time.perf_counter()
                data = transform(data)
                laps[name] = time.perf_counter() - start
                if data is None:  # as where a random crop has no box: MMEngine takes another image
                    break
            if not warm_up:
                for name, lap in laps.items():
                    seconds[name] += lap / samples
    return seconds


def _images_per_second(loader: Any, batch: int, samples: int) -> float:
    batches = iter(loader)
    for _ in range(WARM_UP_BATCHES + loader.num_workers * 2):  # what workers have loaded before somebody waits for it
        next(batches)
    number = max(2, round(samples / batch))
    start = time.perf_counter()
    for _ in range(number):
        next(batches)
    return number * batch / (time.perf_counter() - start)
