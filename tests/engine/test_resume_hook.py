"""A training that was killed and resumed equals, to the bit, one that was not."""

import gc
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from heap import used_heap
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import Runner
from resumed_runs import NUM_IMAGES, Killed, KillHook, assert_same_checkpoints, make_config, read_images

from mmtwins.engine.distributed import CPUDistributedDataParallel
from mmtwins.engine.random_states import ITERATION, get_random_states, kept_random_states, seed_random_numbers
from mmtwins.engine.resume_hook import _obstacles
from mmtwins.engine.runner import build_runner
from mmtwins.weights.opening import read_file

EXACT = 'equals an uninterrupted one bit for bit'


def train(
    work_dir: Path, kill_after: int | None = None, resume: bool = False, build=build_runner, **kwargs
) -> tuple[Runner, str]:
    """The Runner after a training, and what it has logged."""
    work_dir.mkdir(exist_ok=True)
    (work_dir / 'images.txt').write_text('')
    cfg = make_config(work_dir, **kwargs)
    cfg.resume = resume
    runner = build(cfg)
    if kill_after is None:
        runner.train()
    else:
        runner.register_hook(KillHook(kill_after))
        with pytest.raises(Killed):
            runner.train()
    runner.train_loop.dataloader_iterator = None  # else its workers live on, and end in a later run
    return runner, (Path(runner.log_dir) / f'{runner.timestamp}.log').read_text()


def assert_resumed_equals_whole(
    tmp_path: Path, kill_after: int = 7, last: str = 'iter_12.pth', metrics: bool = True, **kwargs
) -> str:
    """Compare the last checkpoints of both; returns the log of the resumed run."""
    train(tmp_path / 'whole', **kwargs)
    train(tmp_path / 'killed', kill_after, **kwargs)
    log = train(tmp_path / 'killed', resume=True, **kwargs)[1]
    assert_same_checkpoints(tmp_path / 'killed' / last, tmp_path / 'whole' / last, metrics)
    return log


@pytest.mark.parametrize('by_epoch', [False, True])
@pytest.mark.parametrize('workers', [(0, 0), (2, 2), (0, 1), (2, 0)])
def test_workers_make_no_difference(by_epoch: bool, workers: tuple[int, int], tmp_path: Path) -> None:
    train(tmp_path / 'whole', by_epoch=by_epoch)
    train(tmp_path / 'killed', 7, by_epoch=by_epoch, workers=workers[0])
    _, log = train(tmp_path / 'killed', resume=True, by_epoch=by_epoch, workers=workers[1])
    assert_same_checkpoints(tmp_path / 'killed' / 'iter_12.pth', tmp_path / 'whole' / 'iter_12.pth')
    assert f'Resumed at iteration 6 without reading the images before it. The run {EXACT}' in log


@pytest.mark.parametrize('by_epoch', [False, True])
@pytest.mark.parametrize('kill_after', [3, 5, 9, 12])
def test_any_iteration_can_be_the_last(by_epoch: bool, kill_after: int, tmp_path: Path) -> None:
    checkpoint = {'default_hooks.checkpoint.interval': 1}
    assert_resumed_equals_whole(tmp_path, kill_after, metrics=False, by_epoch=by_epoch, **checkpoint)


def test_checkpoints_at_ends_of_epochs_resume_exactly(tmp_path: Path) -> None:
    checkpoint = {'default_hooks.checkpoint': dict(type='CheckpointHook', interval=1, by_epoch=True)}
    log = assert_resumed_equals_whole(tmp_path, 9, 'epoch_3.pth', metrics=False, by_epoch=True, **checkpoint)
    assert 'resumed epoch: 2, iter: 8' in log


@pytest.mark.parametrize(
    'options',
    [
        {'optim_wrapper.optimizer': dict(type='SGD', lr=0.01, momentum=0.9),
         'param_scheduler': [dict(type='ConstantMomentum', factor=0.5, begin=0, end=8, by_epoch=False)]},
        {'custom_hooks': [dict(type='EMAHook', momentum=0.3)]},
        {'optim_wrapper.accumulative_counts': 4, 'optim_wrapper.clip_grad': dict(max_norm=0.1)},
        {'randomness': dict(seed=3, diff_rank_seed=True)},
        {'train_dataloader.sampler.type': 'DefaultSampler'},
        {'train_dataloader.drop_last': True, 'train_dataloader.sampler.shuffle': False},
    ],
    ids=['momentum', 'moving average', 'accumulation', 'seeds by rank', 'finite sampler', 'last batch dropped'],
)  # fmt: skip
def test_what_a_config_may_have_is_exact(options: dict, tmp_path: Path) -> None:
    assert EXACT in assert_resumed_equals_whole(tmp_path, **options)


@pytest.mark.parametrize('by_epoch', [False, True])
def test_a_validation_that_changes_the_rate_is_made_up_for(by_epoch: bool, tmp_path: Path) -> None:
    """Killed between a checkpoint and the validation that follows it."""
    scheduler = dict(type='ReduceOnPlateauLR', monitor='score', patience=0, by_epoch=True, threshold=1e9)
    options = {
        'param_scheduler': [scheduler],
        'default_hooks.checkpoint': dict(type='CheckpointHook', interval=1, by_epoch=by_epoch),
    }
    last = 'epoch_3.pth' if by_epoch else 'iter_12.pth'
    train(tmp_path / 'whole', by_epoch=by_epoch, **options)
    train(tmp_path / 'killed', 9, by_epoch=by_epoch, **options)
    if not by_epoch:
        (tmp_path / 'killed' / 'last_checkpoint').write_text(str(tmp_path / 'killed' / 'iter_8.pth'))
    train(tmp_path / 'killed', resume=True, by_epoch=by_epoch, **options)
    assert_same_checkpoints(tmp_path / 'killed' / last, tmp_path / 'whole' / last)
    rates = [read_file(tmp_path / 'whole' / name)['optimizer']['param_groups'][0]['lr']
             for name in (last, last.replace('12', '1').replace('3', '1'))]  # fmt: skip
    assert rates[0] < rates[1]


def test_a_training_that_is_complete_says_so(tmp_path: Path) -> None:
    train(tmp_path)
    _, log = train(tmp_path, resume=True)
    assert 'All 12 iterations are done already: there is nothing left to train' in log


def test_a_seed_that_nobody_gave_is_kept(tmp_path: Path) -> None:
    train(tmp_path / 'killed', 7, randomness=dict(seed=None))
    seed = read_file(tmp_path / 'killed' / 'iter_6.pth')['meta']['seed']
    train(tmp_path / 'killed', resume=True, randomness=dict(seed=None))
    train(tmp_path / 'whole', randomness=dict(seed=seed))
    assert_same_checkpoints(tmp_path / 'killed' / 'iter_12.pth', tmp_path / 'whole' / 'iter_12.pth')


def pretend(work_dir: Path, iteration: int, change: Callable[[dict], None] = lambda checkpoint: None, **kwargs) -> Path:
    """A checkpoint of another iteration than that of the run which wrote it."""
    train(work_dir, 3, **kwargs)
    checkpoint = read_file(work_dir / 'iter_2.pth')
    checkpoint['meta']['iter'] = iteration
    change(checkpoint)
    path = work_dir / f'iter_{iteration}.pth'
    torch.save(checkpoint, path)
    (work_dir / 'last_checkpoint').write_text(str(path))
    return path


@pytest.mark.parametrize('workers', [0, 2])
def test_no_image_before_the_checkpoint_is_read(workers: int, tmp_path: Path) -> None:
    options = {'train_cfg.max_iters': 150_001, 'workers': workers}
    pretend(tmp_path, 150_000, **options)
    begun = time.monotonic()
    train(tmp_path, 150_001, resume=True, **options)
    assert time.monotonic() - begun < 15
    sampler = InfiniteSampler(range(NUM_IMAGES), seed=3)
    due = list(itertools.islice(sampler, 450_000, 450_000 + 3 * (1 + 2 * workers)))  # workers load two batches ahead
    read = read_images(tmp_path)
    assert len(read) < 3 * len(due)  # a refused image draws another
    if workers == 0:
        assert read[0] == due[0]


def keeps_the_hook(cfg: Config) -> Runner:
    """As the tools of MMSegmentation and MMDetection do with one of our recipes."""
    cfg.custom_hooks = [dict(type='ExactResumeHook')]
    return Runner.from_cfg(cfg)


@pytest.mark.parametrize('by_epoch', [False, True])
def test_other_tools_need_only_the_hook(by_epoch: bool, tmp_path: Path) -> None:
    train(tmp_path / 'whole', by_epoch=by_epoch)
    train(tmp_path / 'killed', 7, by_epoch=by_epoch, workers=2, build=keeps_the_hook)
    _, log = train(tmp_path / 'killed', resume=True, by_epoch=by_epoch, workers=2, build=keeps_the_hook)
    assert_same_checkpoints(tmp_path / 'killed' / 'iter_12.pth', tmp_path / 'whole' / 'iter_12.pth')
    assert 'Advance dataloader' not in log


def test_mmengine_alone_continues_our_checkpoints_and_we_its(tmp_path: Path) -> None:
    train(tmp_path, 7)
    runner, _ = train(tmp_path, 9, resume=True, build=Runner.from_cfg)
    assert runner.iter == 8
    assert 'exact_resume' not in read_file(tmp_path / 'iter_8.pth')
    _, log = train(tmp_path, resume=True)
    assert 'bit for bit: the checkpoint has no random states, another program wrote it' in log
    order = list(itertools.islice(InfiniteSampler(range(NUM_IMAGES), seed=3), 25))
    assert read_images(tmp_path)[0] == order[24]


def test_a_checkpoint_holds_the_random_states_that_the_next_iteration_begins_with(tmp_path: Path) -> None:
    train(tmp_path, 7)
    saved = read_file(tmp_path / 'iter_6.pth')['exact_resume']
    (states,) = saved['random_states']
    with kept_random_states():
        seed_random_numbers(3, ITERATION, 6, 0)
        expected = get_random_states()
    assert states.keys() == expected.keys() >= {'python', 'numpy', 'torch'}
    assert torch.equal(states['python']['words'], expected['python']['words'])
    assert torch.equal(states['numpy']['words'], expected['numpy']['words'])
    assert torch.equal(states['torch'], expected['torch'])


def test_the_states_in_the_checkpoint_are_what_the_next_iteration_uses(tmp_path: Path) -> None:
    def change(checkpoint: dict) -> None:
        with kept_random_states():
            seed_random_numbers(99, ITERATION, 0)
            checkpoint['exact_resume']['random_states'] = [get_random_states()]

    pretend(tmp_path / 'killed', 2, change)
    train(tmp_path / 'killed', 4, resume=True)
    train(tmp_path / 'whole', 4)
    given, expected = (read_file(tmp_path / name / 'iter_4.pth')['state_dict'] for name in ('killed', 'whole'))
    assert not torch.equal(given['layers.0.weight'], expected['layers.0.weight'])


@pytest.mark.parametrize(
    ('key', 'value', 'now', 'skipped'),
    [('GPUs or processes', 2, 1, 30), ('images a step', 12, 3, 40), ('PyTorch', '1.0', torch.__version__, 10)],
)
def test_what_differs_from_the_checkpoint_is_said_and_no_image_comes_twice(
    key: str, value: object, now: object, skipped: int, tmp_path: Path
) -> None:
    def change(checkpoint: dict) -> None:
        checkpoint['exact_resume']['run'][key] = value
        if key == 'GPUs or processes':
            checkpoint['exact_resume']['run']['images a step'] = 9

    pretend(tmp_path, 10, change)
    _, log = train(tmp_path, 11, resume=True)
    assert f'does not equal an uninterrupted one bit for bit: {key}: {value} in the checkpoint, {now} now' in log
    sampler = InfiniteSampler(range(NUM_IMAGES), seed=3)
    assert read_images(tmp_path)[0] == next(itertools.islice(sampler, 3 * skipped, None))


def test_caching_transforms_and_foreign_loops_and_samplers_are_named(tmp_path: Path) -> None:
    _, log = train(
        tmp_path / 'loop',
        1,
        **{
            'train_cfg.type': 'StrangerLoop',
            'train_dataloader.sampler': dict(type='Unseeded'),
        },
    )
    assert 'A run that resumes from a checkpoint of this one does not equal' in log
    assert 'bit for bit: StrangerLoop chooses its data itself' in log
    pipeline = [dict(type='CachedNothing')]
    _, log = train(
        tmp_path / 'rest',
        1,
        **{'train_dataloader.dataset.pipeline': pipeline, 'train_dataloader.sampler': dict(type='Unseeded')},
    )
    assert 'bit for bit: Unseeded has no seed; CachedNothing mixes in images that its worker loaded before' in log


def test_the_order_in_which_pytorch_adds_gradients_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With our wrapper four processes are exact: tests/faults/test_ranks.py."""
    runner, _ = train(tmp_path, 1)
    model = runner.model
    monkeypatch.setattr(Runner, 'world_size', 4)
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        for kind, named in ((MMDistributedDataParallel, True), (CPUDistributedDataParallel, False)):
            runner.model = kind(model)
            said = '; '.join(_obstacles(runner))
            assert (
                said
                == named * 'a first step adds the gradients of more than two processes in another order than later ones'
            )
        runner.cfg.optim_wrapper.accumulative_counts = 2
        assert list(_obstacles(runner)) == ['a checkpoint between two updates has the gradients of rank 0 only']
    finally:
        torch.distributed.destroy_process_group()


class CountingHook(Hook):
    """Counts the objects that live, and the megabytes of the heap that are in use, at given iterations."""

    priority = 'LOWEST'

    def __init__(self, *at: int) -> None:
        self.at = at
        self.counts: list[tuple[int, float]] = []

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if runner.iter + 1 in self.at:
            gc.collect()
            self.counts.append((len(gc.get_objects()), used_heap()))


def test_nothing_grows_with_the_iterations(tmp_path: Path) -> None:
    """Checkpoints and validations included; what the log keeps is 16 bytes a value."""
    hook = CountingHook(150, 400)
    cfg = make_config(
        tmp_path,
        **{
            'train_cfg.max_iters': 400,
            'train_cfg.val_interval': 100,
            'train_dataloader.dataset.log': None,
            'default_hooks.checkpoint': dict(type='CheckpointHook', interval=50, by_epoch=False, max_keep_ckpts=1),
            'default_hooks.logger.interval': 100,
        },
    )
    runner = build_runner(cfg)
    runner.register_hook(hook)
    runner.train()
    (objects, heap), (objects_later, heap_later) = hook.counts
    assert objects_later - objects < 300
    assert not heap_later - heap >= 1  # NaN without a new glibc
