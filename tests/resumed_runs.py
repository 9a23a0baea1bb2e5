"""Short trainings on the CPU: a model with dropout and batch norm, and data with random augmentation."""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATA_SAMPLERS, DATASETS, LOOPS, METRICS, MODELS, TRANSFORMS
from mmengine.runner import IterBasedTrainLoop
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler

from mmtwins.weights.opening import read_file

NUM_IMAGES = 11


@DATASETS.register_module()
class NoisyImages(BaseDataset):
    """Images of noise from all three generators; every fifth is refused, and another one drawn in its place.

    Args:
        log: File that gets a line with the index of each image that is read, by whichever process.
    """

    METAINFO: ClassVar[dict] = dict(classes=('a', 'b'))

    def __init__(self, log: str | None = None, **kwargs: Any) -> None:
        self.log = log
        super().__init__(**kwargs)

    def load_data_list(self) -> list[dict]:
        return [dict(width=4 + index % 3, height=5) for index in range(NUM_IMAGES)]

    def prepare_data(self, idx: int) -> dict | None:
        if self.log:
            with open(self.log, 'a') as file:
                file.write(f'{idx}\n')
        if random.random() < 0.2:
            return None
        noise = torch.rand(3) + torch.from_numpy(np.random.rand(3)).float()
        return dict(inputs=noise + idx, target=torch.tensor([random.random()]))


@MODELS.register_module()
class NoisyModel(BaseModel):
    """Draws random numbers from all three generators."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))

    def forward(self, inputs: Any, target: Any = None, mode: str = 'tensor') -> Any:
        if not isinstance(inputs, Tensor):
            inputs, target = torch.stack(list(inputs)), torch.stack(list(target))
        scores = self.layers(inputs)
        if mode != 'loss':
            random.random(), np.random.rand(), torch.rand(1)  # a validation draws some too
            return list(scores)
        noise = random.random() + float(np.random.rand()) + torch.rand(1)
        return dict(loss=((scores - target * noise) ** 2).mean())


@METRICS.register_module()
class MeanScore(BaseMetric):
    """Some number that depends on the weights."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.extend(float(sample) for sample in data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        return dict(score=float(np.mean(results)))


@TRANSFORMS.register_module()
class CachedNothing:
    """Named as the transforms of MMDetection that keep images of earlier samples."""

    def __call__(self, results: dict) -> dict:
        return results


@DATA_SAMPLERS.register_module()
class Unseeded(Sampler):
    """In the order of the data, again and again."""

    def __init__(self, dataset: Dataset, **kwargs: Any) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[int]:
        yield from itertools.cycle(range(len(self.dataset)))

    def __len__(self) -> int:
        return len(self.dataset)


@LOOPS.register_module()
class StrangerLoop(IterBasedTrainLoop):
    """Of somebody else."""


class Killed(Exception):
    """Ends a run as a signal would."""


class KillHook(Hook):
    """Ends a run when so many iterations are done, after the checkpoint."""

    priority = 'LOWEST'

    def __init__(self, after: int) -> None:
        self.after = after

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter + 1 == self.after:
            raise Killed


def make_config(work_dir: Path, by_epoch: bool = False, workers: int = 0, **kwargs: Any) -> Config:
    """Twelve iterations of three images: all in one, or in three epochs of four, with a checkpoint at every second.

    Args:
        work_dir: Where to write.
        by_epoch: Whether the loop is epoch-based.
        workers: Of the data loader for training.
        kwargs: Values of the config by dotted name.
    """
    sampler = dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True)
    loop = dict(type='EpochBasedTrainLoop', max_epochs=3) if by_epoch else dict(type='IterBasedTrainLoop', max_iters=12)
    cfg = Config(
        dict(
            model=dict(type='NoisyModel'),
            work_dir=str(work_dir),
            launcher='none',
            experiment_name=f'{work_dir}_{random.SystemRandom().random()}',  # MMEngine's loggers are found by it
            train_dataloader=dict(
                batch_size=3,
                num_workers=workers,
                sampler=sampler,
                dataset=dict(type='NoisyImages', log=str(work_dir / 'images.txt'), serialize_data=False),
            ),
            train_cfg=dict(**loop, val_interval=1 if by_epoch else 4),
            val_dataloader=dict(
                batch_size=5,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=dict(type='NoisyImages', serialize_data=False),
            ),
            val_cfg=dict(),
            val_evaluator=dict(type='MeanScore'),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01)),
            param_scheduler=[
                dict(type='LinearLR', start_factor=0.1, begin=0, end=5, by_epoch=False),
                dict(type='MultiStepLR', milestones=[1, 2] if by_epoch else [7, 9], by_epoch=by_epoch),
            ],
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', interval=2, by_epoch=False),
                logger=dict(type='LoggerHook', interval=1),
            ),
            log_processor=dict(by_epoch=by_epoch, window_size=3),
            randomness=dict(seed=3),
        )
    )
    cfg.merge_from_dict(kwargs)
    return cfg


def read_images(work_dir: Path) -> list[int]:
    """The indices of the images that a run has read for training, in their order where no workers read."""
    return [int(line) for line in (work_dir / 'images.txt').read_text().split()]


def assert_same_checkpoints(given: Path, expected: Path, metrics: bool = True) -> None:
    """All that two checkpoints hold is the same to the bit, but what tells of time and names, and perhaps metrics."""
    first, second = (read_file(path) for path in (given, expected))
    for checkpoint in (first, second):
        for key in ('time', 'experiment_name', 'cfg', 'mmengine_version'):  # which names the commit of the folder
            checkpoint['meta'].pop(key, None)
        scalars = checkpoint['message_hub']['log_scalars']
        for key in list(scalars):
            if key.endswith('time') or (key.startswith('val/') and not metrics):
                del scalars[key]
        for key in ('eta', 'cfg', 'experiment_name', 'last_ckpt', 'best_ckpt', 'outdated_ckpts'):
            for part in ('runtime_info', 'resumed_keys'):
                checkpoint['message_hub'][part].pop(key, None)
    _assert_same(first, second, '')


def _assert_same(given: Any, expected: Any, where: str) -> None:
    assert type(given) is type(expected), where
    if isinstance(given, dict):
        assert given.keys() == expected.keys(), (where, given.keys() ^ expected.keys())
        for key in given:
            _assert_same(given[key], expected[key], f'{where}.{key}')
    elif isinstance(given, list | tuple):
        assert len(given) == len(expected), where
        for index, pair in enumerate(zip(given, expected)):
            _assert_same(*pair, f'{where}.{index}')
    elif isinstance(given, Tensor):
        assert torch.equal(given, expected), where
    elif hasattr(given, 'data'):  # a HistoryBuffer
        assert all(np.array_equal(*pair) for pair in zip(given.data, expected.data)), where
    else:
        assert given == expected, where
