"""Room for checkpoints: sizes and numbers as in trainings that write them."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from tiny_training import make_config
from torch import nn

from mmtwins.engine import checkpoint_room
from mmtwins.engine.checkpoint_room import describe_interval, measure_room
from mmtwins.engine.model import build_on_meta
from mmtwins.engine.runner import build_runner


class Wide(nn.Module):
    """A million weights in float32, half of them trained, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.trained = nn.Parameter(torch.zeros(500_000, device='meta'))
        self.frozen = nn.Parameter(torch.zeros(500_000, device='meta'), requires_grad=False)
        self.register_buffer('mean', torch.zeros(1000, device='meta'))


def config(work_dir: Path, optimizer: str = 'AdamW', hooks: list | None = None, **hook: Any) -> Config:
    return Config(
        dict(
            work_dir=str(work_dir),
            optim_wrapper=dict(optimizer=dict(type=optimizer, lr=0.1)),
            train_cfg=dict(by_epoch=False, max_iters=100),
            default_hooks=dict(checkpoint=dict(type='SafeCheckpointHook', by_epoch=False, interval=30, **hook)),
            custom_hooks=hooks or [],
        )
    )


def test_a_checkpoint_holds_weights_averages_and_what_the_optimizer_keeps(tmp_path: Path) -> None:
    model, weights, trained = Wide(), 4_004_000, 2_000_000
    sizes = {
        'AdamW': measure_room(config(tmp_path), model),
        'SGD': measure_room(config(tmp_path, 'SGD'), model),
        'LBFGS': measure_room(config(tmp_path, 'LBFGS'), model),  # cannot be tried
        'averages': measure_room(config(tmp_path, 'SGD', [dict(type='EMAHook')]), model),
        'bare': measure_room(config(tmp_path, save_optimizer=False), model),
    }
    assert {name: room.size for name, room in sizes.items() if room} == {
        'AdamW': weights + 2 * trained,
        'SGD': weights,
        'LBFGS': weights + 2 * trained,
        'averages': 2 * weights,
        'bare': weights,
    }
    room = measure_room(config(tmp_path, 'SGD', save_best=['mIoU', 'aAcc'], max_keep_ckpts=3), model)
    assert room and (room.count, room.needed) == (3, (3 + 1 + 2) * weights)


@pytest.mark.parametrize(
    'optimizer', [dict(type='AdamW'), dict(type='SGD', lr=0.1, momentum=0.9), dict(type='SGD', lr=0.1)]
)
def test_the_size_is_that_of_the_file(optimizer: dict, tmp_path: Path) -> None:
    cfg = make_config(tmp_path, **{'optim_wrapper.optimizer': dict(optimizer, _delete_=True)})
    cfg.model = dict(type='TwinsSVTBackbone', out_indices=(0, 1, 2, 3))
    model = build_on_meta(cfg)
    room = measure_room(cfg, model)
    weights = {name: torch.zeros(value.shape) for name, value in model.state_dict().items()}
    parameters = [nn.Parameter(value) for value in weights.values()]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    instance = getattr(torch.optim, optimizer['type'])(
        parameters, **{k: v for k, v in optimizer.items() if k != 'type'}
    )
    instance.step()
    torch.save(dict(state_dict=weights, optimizer=instance.state_dict()), tmp_path / 'a.pth')
    assert room and room.size == pytest.approx((tmp_path / 'a.pth').stat().st_size, rel=0.01)


@pytest.mark.parametrize(
    'hook',
    [
        dict(),
        dict(interval=5, max_keep_ckpts=-1),
        dict(interval=5, max_keep_ckpts=-1, save_last=False),
        dict(interval=3, save_begin=5, max_keep_ckpts=-1),
        dict(interval=-1),
        dict(interval=4, max_keep_ckpts=2),
        dict(by_epoch=True, interval=1),
        dict(by_epoch=True, interval=1, filename_tmpl='w_{}.pth'),
    ],
)
def test_the_number_is_that_of_the_files(hook: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    options = {f'default_hooks.checkpoint.{key}': value for key, value in hook.items()}
    cfg = make_config(tmp_path, **{'train_cfg.max_iters': 12, **options})
    room = measure_room(cfg, build_on_meta(cfg))
    build_runner(cfg).train()
    assert room and room.count == len(list(tmp_path.glob('*.pth')))


@pytest.mark.parametrize(
    'hook', [dict(interval=1), dict(interval=2), dict(interval=1, max_keep_ckpts=2), dict(interval=-1)]
)
def test_epochs(hook: dict, tmp_path: Path) -> None:
    cfg = config(tmp_path)
    cfg.train_cfg = dict(by_epoch=True, max_epochs=5)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', **hook)
    room = measure_room(cfg, Wide())
    expected = {(1, -1): 5, (2, -1): 3, (1, 2): 2, (-1, -1): 1}[hook['interval'], hook.get('max_keep_ckpts', -1)]
    assert room and room.count == expected
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, **hook)  # who knows how many iterations
    room = measure_room(cfg, Wide())
    assert room and room.count == (2 if hook.get('max_keep_ckpts') else None)
    assert (room.needed is None) == (room.count is None)


def test_what_is_done_and_there_needs_no_room(tmp_path: Path) -> None:
    def count(done: int, **hook: Any) -> int | None:
        room = measure_room(config(tmp_path, **hook), Wide(), done)
        return room.count if room else None

    assert [count(done) for done in (0, 29, 30, 90, 99)] == [4, 4, 3, 1, 1]
    for name in ('iter_30.pth', 'iter_60.pth', 'best_mIoU_iter_60.pth', 'last_checkpoint'):
        (tmp_path / name).touch()
    assert [count(done, max_keep_ckpts=3) for done in (0, 60)] == [3, 0]
    assert count(60, max_keep_ckpts=4) == 0


def test_the_disk_is_that_of_the_folder_even_before_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    usage = shutil.disk_usage(tmp_path)._replace(free=123)
    monkeypatch.setattr(checkpoint_room.shutil, 'disk_usage', lambda path: asked.append(Path(path)) or usage)
    room = measure_room(config(tmp_path / 'a' / 'b'), Wide())
    assert room and (room.free, room.folder, asked) == (123, tmp_path / 'a' / 'b', [tmp_path])
    (tmp_path / 'out').mkdir()
    room = measure_room(config(tmp_path / 'a' / 'b', out_dir=str(tmp_path / 'out')), Wide())
    assert room and (room.folder, asked[-1]) == (tmp_path / 'out' / 'b', tmp_path / 'out')


def test_elsewhere_it_is_not_known(tmp_path: Path) -> None:
    for hook in (dict(out_dir='s3://bucket/a'), dict(backend_args=dict(backend='petrel'))):
        assert measure_room(config(tmp_path, **hook), Wide()) is None
    cfg = config(tmp_path)
    cfg.default_hooks.checkpoint = None
    assert measure_room(cfg, Wide()) is None
    assert describe_interval(cfg) is None


@pytest.mark.parametrize(
    ('hook', 'train_cfg', 'expected'),
    [
        (dict(by_epoch=False, interval=16000), dict(max_iters=160000), 'every 16,000 iterations'),
        (dict(interval=1), dict(max_epochs=12), 'every epoch'),
        (dict(interval=1), dict(max_iters=12), 'at the end'),
        (dict(by_epoch=False), dict(max_iters=12), 'at the end'),
        (None, dict(max_epochs=12), 'every epoch'),
    ],
)
def test_how_often_it_is_written(hook: dict | None, train_cfg: dict, expected: str) -> None:
    hooks = dict(logger=dict(type='LoggerHook')) if hook is None else dict(checkpoint=hook)
    assert describe_interval(Config(dict(default_hooks=hooks, train_cfg=train_cfg))) == expected
