"""Which loops are replaced by those that resume, and how."""

from pathlib import Path

import pytest
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from resumed_runs import StrangerLoop, make_config
from torch.utils.data import DataLoader

from mmtwins.engine.loops import (
    ResumableEpochBasedTrainLoop,
    ResumableIterBasedTrainLoop,
    name_resumable_loop,
    replace_loop,
)
from mmtwins.engine.runner import build_runner
from mmtwins.models import threads


def make_runner(work_dir: Path, **train_cfg) -> Runner:
    cfg = make_config(work_dir)
    cfg.train_cfg = train_cfg
    return Runner.from_cfg(cfg)


@pytest.mark.parametrize(
    ('train_cfg', 'kind'),
    [
        (dict(by_epoch=True, max_epochs=1), ResumableEpochBasedTrainLoop),
        (dict(by_epoch=False, max_iters=1), ResumableIterBasedTrainLoop),
        (dict(type='IterBasedTrainLoop', max_iters=1), ResumableIterBasedTrainLoop),
        (dict(type='mmengine.EpochBasedTrainLoop', max_epochs=1), ResumableEpochBasedTrainLoop),
        (dict(type=EpochBasedTrainLoop, max_epochs=1), ResumableEpochBasedTrainLoop),
        (dict(type='ResumableIterBasedTrainLoop', max_iters=1), ResumableIterBasedTrainLoop),
        (dict(type='StrangerLoop', max_iters=1), StrangerLoop),
    ],
)
def test_the_loops_of_mmengine_become_resumable_and_others_stay(train_cfg: dict, kind: type, tmp_path: Path) -> None:
    runner = make_runner(tmp_path, **train_cfg)
    name_resumable_loop(runner)
    name_resumable_loop(runner)
    assert type(runner.train_loop) is kind
    assert runner.cfg.train_cfg == train_cfg  # what is dumped stays readable without mmtwins


@pytest.mark.parametrize('by_epoch', [False, True])
def test_the_number_of_threads_is_kept_to_the_end_even_of_a_training_that_fails(by_epoch: bool, tmp_path: Path) -> None:
    class Noting(Hook):
        def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
            kept.append(threads._keeping)
            raise RuntimeError('a test')

    kept: list[int] = []
    runner = build_runner(make_config(tmp_path, by_epoch=by_epoch))
    runner.register_hook(Noting())
    with pytest.raises(RuntimeError, match='a test'):
        runner.train()
    assert kept[0] > 0 and threads._keeping == 0


def test_a_loop_that_is_built_gets_a_new_loader_over_the_same_data(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, by_epoch=False, max_iters=9, val_interval=3)
    old = runner.train_loop
    old._iter = 4
    next(old.dataloader_iterator)
    replace_loop(runner)
    loop = runner.train_loop
    assert type(loop) is ResumableIterBasedTrainLoop
    assert (loop.iter, loop.max_iters, loop.val_interval) == (4, 9, 3)
    assert loop.dataloader.dataset is old.dataloader.dataset
    assert loop.batches.sampler is not old.dataloader.sampler
    replace_loop(runner)
    assert runner.train_loop is loop


def test_a_loader_in_place_of_its_config_is_taken_as_it_is(tmp_path: Path) -> None:
    runner = make_runner(tmp_path, by_epoch=False, max_iters=1)
    loader = DataLoader(runner.train_loop.dataloader.dataset, batch_size=2)
    loop = ResumableIterBasedTrainLoop(runner, loader, max_iters=1)
    assert loop.dataloader is loader
    assert loop.batches.batch_size == 2


@pytest.mark.parametrize(
    ('done', 'is_validated'),
    [(0, False), (2, False), (3, False), (5, False), (6, True), (8, False), (9, True), (10, True)],
)
def test_validations_come_at_their_interval_and_at_the_end(done: int, is_validated: bool, tmp_path: Path) -> None:
    runner = make_runner(tmp_path, by_epoch=False, max_iters=10, val_interval=3, val_begin=5)
    name_resumable_loop(runner)
    runner.train_loop._iter = done
    assert runner.train_loop.is_validated() is is_validated
