"""Look for memory that a long training or many predictions do not give back, on the toy detector with a small backbone.

    python tests/faults/memory_use.py --iterations 2000 --predictions 5000

The training validates and saves every 500 iterations; the predictions are of images of many sizes. "In use" is what the
program has allocated; the process holds more, which the C library keeps for later.
"""

import argparse
import functools
import gc
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from heap import used_heap
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmtwins.demo.data import generate_toy_data
from mmtwins.engine.config import load_config
from mmtwins.engine.runner import build_runner
from mmtwins.inference.predictor import Predictor

(DETECTOR,) = (Path(__file__).parents[2] / 'configs' / 'toy').glob('mask-rcnn*.py')
SMALL: dict[str, Any] = {
    'model.backbone.arch.embed_dims': (8, 16, 16, 16),
    'model.backbone.arch.depths': (1, 1, 1, 1),
    'model.backbone.arch.num_heads': (1, 2, 2, 2),
    'model.neck.in_channels': [8, 16, 16, 16],
}


class Use(NamedTuple):
    """What this process uses: objects of Python that are tracked, tensors, megabytes in use, held now and at most."""

    objects: int
    tensors: int
    in_use: float
    held: float
    peak: float


def measure_use() -> Use:
    """Collect garbage and count, without what Matplotlib keeps of the last 4,096 texts that it has drawn."""
    candidates = gc.get_objects()  # without what gc.freeze() has seen
    if 'matplotlib.text' in sys.modules:
        candidates += vars(sys.modules['matplotlib.text']).values()
    for one in candidates:
        if isinstance(one, functools._lru_cache_wrapper) and one.__module__ == 'matplotlib.text':
            one.cache_clear()
    del candidates
    gc.collect()
    objects = gc.get_objects()
    tensors = sum(issubclass(type(one), torch.Tensor) for one in objects)
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Use(len(objects), tensors, used_heap(), pages * resource.getpagesize() / 2**20, peak / 2**10)


class MeasureHook(Hook):
    """Measures after given iterations."""

    priority = 'LOWEST'

    def __init__(self, at: list[int]) -> None:
        self.at = at
        self.uses: list[Use] = []

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter + 1 in self.at:
            self.uses.append(measure_use())


def make_config(data: Path, work_dir: Path, iterations: int, interval: int) -> Config:
    """The toy detector, smaller, with a validation and a checkpoint at an interval."""
    options = {
        **SMALL,
        'data_root': str(data / 'coco'),
        'train_dataloader.batch_size': 2,
        'train_cfg.max_iters': iterations,
        'train_cfg.val_interval': interval,
        'default_hooks.checkpoint.interval': interval,
        'default_hooks.checkpoint.max_keep_ckpts': 1,
        'default_hooks.logger.interval': interval,
    }
    cfg = load_config(str(DETECTOR), options)
    cfg.update(work_dir=str(work_dir), launcher='none', experiment_name=str(work_dir))
    return cfg


def train(cfg: Config, at: list[int]) -> list[Use]:
    """Train; returns what is used after each of these iterations."""
    runner = build_runner(cfg)
    hook = MeasureHook(at)
    runner.register_hook(hook)
    runner.train()
    return hook.uses


class NoisyImages(list):
    """As a list, images of noise of 64 to 160 pixels a side, made when they are asked for."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        for _ in range(self.number):
            yield rng.integers(0, 255, (*rng.integers(64, 161, 2), 3), dtype=np.uint8)


def predict(checkpoint: Path, number: int, at: list[int]) -> list[Use]:
    """Predict on images of many sizes; returns what is used after each of these predictions."""
    predictor = Predictor(DETECTOR, checkpoint, 'cpu', 0.05, SMALL)
    return [measure_use() for done, _ in enumerate(predictor(NoisyImages(number)), 1) if done in at]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--iterations', type=int, default=2000, help='of the training (default: %(default)s)')
    parser.add_argument('--predictions', type=int, default=5000, help='how many (default: %(default)s)')
    args = parser.parse_args()
    torch.set_num_threads(1)
    at = [*range(499, args.iterations, 500), args.iterations]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(generate_toy_data(Path(folder, 'toy'), num_train=64, num_val=150))
        work_dir = Path(folder, 'work')
        rows = [('iteration', *row) for row in zip(at, train(make_config(data, work_dir, args.iterations, 500), at))]
        at = [*range(1000, args.predictions, 1000), args.predictions]
        checkpoint = work_dir / f'iter_{args.iterations}.pth'
        rows += [('prediction', *row) for row in zip(at, predict(checkpoint, args.predictions, at))]
    print('| after | objects | tensors | in use | held | held at most |\n|---|---|---|---|---|---|')
    for kind, number, use in rows:
        print(
            f'| {kind} {number:,} | {use.objects:,} | {use.tensors} | {use.in_use:.0f} MB | {use.held:,.0f} MB | '
            f'{use.peak:,.0f} MB |'
        )


if __name__ == '__main__':
    main()
