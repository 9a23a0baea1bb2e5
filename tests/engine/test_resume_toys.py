"""Both toy recipes, with drop path, killed and resumed through the tools' Runner: the same weights to the bit."""

from pathlib import Path

import pytest
from mmengine.config import Config
from resumed_runs import Killed, KillHook, assert_same_checkpoints
from toys import DETECTOR, SEGMENTOR

from mmtwins.engine.config import load_config
from mmtwins.engine.runner import build_runner

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

SMALL = dict(embed_dims=(8, 16, 16, 16), depths=(2, 1, 1, 1), num_heads=(1, 2, 2, 2), mlp_ratios=(2, 2, 2, 2))
# Ratios and orders that depend on random numbers of Python and NumPy, and images of both shapes.
SEGMENTATION_STEPS = [
    dict(type='RandomResize', scale=(160, 128), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(64, 64), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
]
DETECTION_STEPS = [
    dict(type='RandomChoiceResize', scales=[(48, 64), (64, 96), (80, 64)], keep_ratio=False),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
]


def small_config(task: str, data: Path, work_dir: Path, by_epoch: bool, workers: int) -> Config:
    """Four iterations of two images, or two epochs of three, with a checkpoint at every second."""
    is_detection = task == 'detection'
    cfg = load_config(
        str(DETECTOR if is_detection else SEGMENTOR), {'data_root': str(data / ('coco' if is_detection else 'ade'))}
    )
    channels = list(SMALL['embed_dims'])
    cfg.model.backbone.update(arch=SMALL, drop_path_rate=0.5)
    if is_detection:
        cfg.model.neck.in_channels = channels
    else:
        cfg.model.data_preprocessor.size = (64, 64)
        cfg.model.decode_head.update(in_channels=channels, dropout_ratio=0.3)
        cfg.model.auxiliary_head.in_channels = channels[2]
        cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.2))
    steps = cfg.train_dataloader.dataset.pipeline
    cfg.train_dataloader.dataset.pipeline = [
        *[step for step in steps if step.type.startswith(('Load', 'Check'))],
        *(DETECTION_STEPS if is_detection else SEGMENTATION_STEPS),
        steps[-1],
    ]
    cfg.train_dataloader.update(batch_size=2, num_workers=workers)
    cfg.train_dataloader.dataset.update(indices=6, serialize_data=False)
    cfg.train_cfg.max_iters = 4
    cfg.update(val_cfg=None, val_dataloader=None, val_evaluator=None)
    if by_epoch:
        cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=2)
        cfg.train_dataloader.sampler.type = 'DefaultSampler'
        if is_detection:
            cfg.train_dataloader.batch_sampler = dict(type='AspectRatioBatchSampler')
    cfg.default_hooks.checkpoint.interval = 2
    cfg.update(work_dir=str(work_dir), launcher='none', experiment_name=f'{work_dir}_{workers}')
    return cfg


@pytest.mark.parametrize(
    ('task', 'by_epoch'),
    [
        ('segmentation', False),
        ('detection', True),
        pytest.param('segmentation', True, marks=pytest.mark.slow),
        pytest.param('detection', False, marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_with_other_workers(task: str, by_epoch: bool, toy_data: Path, tmp_path: Path) -> None:
    last = f'iter_{6 if by_epoch else 4}.pth'
    build_runner(small_config(task, toy_data, tmp_path / 'whole', by_epoch, workers=0)).train()
    killed = build_runner(small_config(task, toy_data, tmp_path / 'killed', by_epoch, workers=0))
    killed.register_hook(KillHook(after=5 if by_epoch else 3))
    with pytest.raises(Killed):
        killed.train()
    cfg = small_config(task, toy_data, tmp_path / 'killed', by_epoch, workers=2)
    cfg.resume = True
    runner = build_runner(cfg)
    runner.train()
    runner.train_loop.dataloader_iterator = None  # ends its workers
    assert_same_checkpoints(tmp_path / 'killed' / last, tmp_path / 'whole' / last)
