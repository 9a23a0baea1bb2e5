"""The hooks in a Runner: checkpoints fitted to the model, and the batch size they warn of."""

import ctypes
import logging
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner

from mmtwins import TwinsSVTBackbone
from mmtwins.engine import hooks
from mmtwins.engine.config import load_config
from mmtwins.engine.hooks import CheckBatchSizeHook, CountFaultsHook, ReturnMemoryHook
from mmtwins.engine.reading import DataFileWarning, warn_once
from mmtwins.engine.runner import build_runner
from mmtwins.weights.converting import from_native

FPN = Path(__file__).parents[2] / 'configs' / 'ade20k' / 'fpn_twins-svt-s_4xb4-80k_ade20k-512x512.py'
BACKBONE = dict(
    arch=dict(embed_dims=(8, 16), depths=(1, 2), num_heads=(1, 2), mlp_ratios=(2, 2)),
    window_sizes=(7, 7),
    sr_ratios=(2, 1),
    out_indices=(0, 1),
)


class StandInRunner:
    """Has what the warning reads."""

    def __init__(self, cfg: Config, world_size: int) -> None:
        self.cfg = cfg
        self.world_size = world_size
        self.logger = logging.getLogger('stand-in')


def warnings_of(caplog: pytest.LogCaptureFixture, world_size: int, **options) -> list[str]:
    caplog.clear()
    CheckBatchSizeHook().before_train(StandInRunner(load_config(str(FPN), options), world_size))
    return [record.message for record in caplog.records]


def test_another_batch_than_the_recipes_is_warned_of_with_the_remedy(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip('mmseg')
    (message,) = warnings_of(caplog, 1)
    assert message == (
        '1 GPU(s) x 4 image(s) = 4 a step, but the learning rate is for 16 (auto_scale_lr.base_batch_size). Scale it by '
        '0.25: with --auto-scale-lr, or with --cfg-options auto_scale_lr.enable=True'
    )
    (message,) = warnings_of(caplog, 8)
    assert '8 GPU(s) x 4 image(s) = 32 a step' in message
    assert 'Scale it by 2:' in message
    (message,) = warnings_of(caplog, 8, **{'optim_wrapper.accumulative_counts': 2})
    assert '8 GPU(s) x 4 image(s) x 2 accumulated iterations = 64 a step' in message
    assert warnings_of(caplog, 4) == []
    assert warnings_of(caplog, 8, **{'train_dataloader.batch_size': 2}) == []
    assert warnings_of(caplog, 1, **{'optim_wrapper.accumulative_counts': 4}) == []
    assert warnings_of(caplog, 1, **{'auto_scale_lr.enable': True}) == []
    assert warnings_of(caplog, 1, **{'auto_scale_lr': None}) == []
    with pytest.raises(ValueError, match=r"auto_scale_lr\.base_batch_size is '16 images': write the number"):
        warnings_of(caplog, 1, **{'auto_scale_lr.base_batch_size': '16 images'})


@pytest.mark.parametrize('names', [[], ['a'], ['a', 'b', 'a']])
def test_faults_in_data_files_are_counted_at_the_end(
    names: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    warn_once(f'{tmp_path} before the run')
    hook, runner = CountFaultsHook(), StandInRunner(Config(), 1)
    hook.before_run(runner)
    for name in names:
        warn_once(f'{tmp_path / name} is truncated')
    hook.after_run(runner)
    faults = len(set(names))
    expected = f'The run went on with {faults} fault(s) in data files: see the warnings above'
    assert [record.message for record in caplog.records] == [expected] * bool(faults)
    assert len([one for one in recwarn if one.category is DataFileWarning]) == 1 + faults


@DATASETS.register_module()
class TinyImages(torch.utils.data.Dataset):
    """Two grey images."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return dict(inputs=torch.ones(3, 64, 64))


@MODELS.register_module()
class TinyDense(BaseModel):
    """A dense model in miniature."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.backbone = TwinsSVTBackbone(**BACKBONE)
        self.conv_seg = torch.nn.Conv2d(16, num_classes, 1)

    def forward(self, inputs: torch.Tensor, mode: str = 'tensor') -> dict[str, torch.Tensor]:
        return dict(loss=self.conv_seg(self.backbone(inputs)[-1]).mean())


def make_config(work_dir: Path, **kwargs) -> Config:
    return Config(
        dict(
            model=dict(type='TinyDense', num_classes=3),
            work_dir=str(work_dir),
            launcher='none',
            experiment_name=str(work_dir).replace('/', '_'),  # MMEngine's loggers are found by it
            train_dataloader=dict(
                batch_size=2,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=dict(type='TinyImages'),
                collate_fn=dict(type='default_collate'),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
            **kwargs,
        )
    )


def log_of(work_dir: Path) -> str:
    return ''.join(path.read_text() for path in work_dir.rglob('*.log'))


@pytest.mark.parametrize('fmt', ['native', 'mmseg', 'mmpretrain'])
@pytest.mark.parametrize('custom_hooks', [[], [dict(type='EMAHook'), dict(type='FitCheckpointHook')]])
def test_load_from_takes_any_checkpoint(fmt: str, custom_hooks: list[dict], tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = {name: torch.randn(value.shape) for name, value in TinyDense(5).state_dict().items()}
    backbone = {k.removeprefix('backbone.'): v for k, v in source.items() if k.startswith('backbone.')}
    for name, checkpoint in [
        ('whole', {'state_dict': from_native(source, fmt)}),
        ('bare', {'model': from_native(backbone, fmt)}),
    ]:
        torch.save(checkpoint, tmp_path / f'{name}.pth')
        work_dir = tmp_path / name
        runner = build_runner(make_config(work_dir, load_from=str(tmp_path / f'{name}.pth'), custom_hooks=custom_hooks))
        runner.train()  # at a rate of 0
        for key, value in runner.model.backbone.state_dict().items():
            assert torch.equal(value, backbone[key]), key
        log = log_of(work_dir)
        if name == 'whole':
            assert (
                'conv_seg: 5 outputs in the checkpoint, 3 in the model (another number of classes), re-initialised'
                in log
            )
            assert 'as whole model in' in log
        else:
            assert 'conv_seg: not in the checkpoint, left as initialised' in log


def test_memory_that_is_free_goes_back_to_the_system() -> None:
    if not hasattr(ctypes.CDLL(None), 'malloc_trim'):
        pytest.skip('needs glibc')
    blocks = [ctypes.create_string_buffer(b'x' * 60_000) for _ in range(2000)]  # below what glibc maps by itself
    kept = blocks[::400]
    full = held()
    del blocks
    ReturnMemoryHook().after_val(None)
    assert full - held() > 80 and len(kept) == 5


def held() -> float:
    """Megabytes that this process holds."""
    return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6


def test_memory_is_given_back_at_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    at: list[int] = []
    runner = SimpleNamespace(iter=0)
    monkeypatch.setattr(hooks, 'return_memory', lambda: at.append(runner.iter + 1))
    hook = ReturnMemoryHook(interval=3)
    for runner.iter in range(7):
        hook.after_train_iter(runner, 0)
    assert at == [3, 6]


def test_training_warns_of_its_batch_and_resumes(tmp_path: Path) -> None:
    cfg = make_config(tmp_path / 'work', auto_scale_lr=dict(enable=False, base_batch_size=16))
    build_runner(cfg).train()
    assert '1 GPU(s) x 2 image(s) = 2 a step, but the learning rate is for 16' in log_of(tmp_path / 'work')
    cfg.update(resume=True, experiment_name='resumed')
    cfg.train_cfg.max_epochs = 2
    runner: Runner = build_runner(cfg)
    runner.train()
    assert runner.epoch == 2
