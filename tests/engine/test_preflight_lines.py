"""Lines about batch, classes, disk, results and resuming."""

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from mmtwins.datasets.data_report import Report, SourceReport
from mmtwins.datasets.findings import Finding
from mmtwins.engine import preflight_lines
from mmtwins.engine.checkpoint_room import Room
from mmtwins.engine.preflight_lines import (
    describe_batch,
    describe_classes,
    describe_disk,
    describe_results,
    describe_resume,
)

GPU = {'auto_scale_lr': dict(base_batch_size=16, enable=False)}
RATE = 'the learning rate 6e-05'


def config(images: int = 2, accumulated: int = 1, **options: Any) -> Config:
    wrapper = dict(optimizer=dict(type='AdamW', lr=6e-5), accumulative_counts=accumulated)
    return Config(dict(train_dataloader=dict(batch_size=images), optim_wrapper=wrapper, **options))


@pytest.mark.parametrize(
    ('cfg', 'processes', 'expected', 'is_loud'),
    [
        (config(**GPU), 8, f'8 GPUs x 2 images = 16 a step, which {RATE} is for', False),
        (
            config(4, **GPU),
            1,
            f'1 GPU x 4 images = 4 a step, but {RATE} is for 16: scale it by 0.25 with --auto-scale-lr',
            True,
        ),
        (
            config(1, 4, **GPU),
            8,
            f'8 GPUs x 1 image x 4 accumulated iterations = 32 a step, but {RATE} is for 16: scale it by 2 with '
            '--auto-scale-lr',
            True,
        ),
        (
            config(4, 4, **GPU),
            1,
            f'1 GPU x 4 images x 4 accumulated iterations = 16 a step, which {RATE} is for',
            False,
        ),
        (
            config(auto_scale_lr=dict(base_batch_size=16, enable=True)),
            4,
            f'4 GPUs x 2 images = 8 a step, {RATE} is for 16 and is scaled by 0.5',
            False,
        ),
        (
            config(2, 4, auto_scale_lr=dict(base_batch_size=16, enable=True)),
            4,
            f'4 GPUs x 2 images x 4 accumulated iterations = 32 a step, {RATE} is for 16 and is scaled by 0.5, not by 2: '
            'MMEngine ignores accumulation',
            True,
        ),
        (
            config(),
            2,
            f'2 GPUs x 2 images = 4 a step; for how many {RATE} is, the config does not say (auto_scale_lr.base_batch_size)',
            False,
        ),
    ],
)
def test_batch(cfg: Config, processes: int, expected: str, is_loud: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight_lines, 'get_device', lambda: 'cuda')
    assert describe_batch(cfg, processes) == ('batch', expected, is_loud)
    monkeypatch.setattr(preflight_lines, 'get_device', lambda: 'cpu')
    text = expected.replace('GPUs', 'CPU processes').replace('GPU', 'CPU process')
    assert describe_batch(cfg, processes) == ('batch', text, is_loud)


def test_batches_of_a_batch_sampler_and_several_optimizers() -> None:
    cfg = config(**GPU)
    cfg.train_dataloader = dict(batch_sampler=dict(batch_size=16))
    cfg.optim_wrapper = dict(constructor='Own', generator=dict(optimizer=dict(lr=1)))
    assert describe_batch(cfg, 1).text.endswith('x 16 images = 16 a step, which the learning rate is for')


def test_classes() -> None:
    labels = SourceReport(
        'train: train_dataloader.dataset', 'images', {'classes': 9, 'classes found': 7, 'pairs looked into': 1200}
    )
    coco = SourceReport(
        'train and val: train_dataloader.dataset',
        'a.json',
        {'classes': 80, 'classes found': 80, 'boxes to train with': 860_001},
    )
    val = SourceReport('val: val_dataloader.dataset', 'b.json', coco.numbers)
    unknown = SourceReport('train: train_dataloader.dataset', 'LVISV1Dataset')
    model = dict(decode_head=[dict(num_classes=9), dict(num_classes=9)], roi_head=dict(bbox_head=dict(num_classes=9)))
    cfg = Config(dict(model=model))

    def text(*sources: SourceReport) -> str:
        return describe_classes(cfg, Report(list(sources))).text

    assert text(labels, val) == '7 of 9 found in 1,200 label images; num_classes=9 in the heads'
    assert text(coco) == '80 of 80 found in 860,001 annotations; num_classes=9 in the heads'
    assert text(labels, coco).startswith('7 of 9 found in 1,200 label images; 80 of 80 found in 860,001 annotations; ')
    assert text(unknown, val).startswith('not checked in LVISV1Dataset; ')
    val.findings.append(Finding('class-empty', False, 'a.json', 'text', 'remedy'))
    cfg = Config(dict(model=dict()))
    assert text(coco, val) == '80 of 80 found in 860,001 annotations; 1 warning, see `mmtwins check-data`'


def test_disk(tmp_path: Path) -> None:
    def describe(free: float, count: int | None = 10) -> tuple[str, bool]:
        needed = None if count is None else int(7.81e9)
        line = describe_disk(Room(Path('work'), int(0.71e9), count, needed, int(free)))
        return line.text, line.is_loud

    for_all = '7.8 GB for 10 checkpoints of about 710.0 MB and one more while it is written'
    assert describe(231e9) == (f'231.0 GB free, {for_all}', False)
    assert describe(7.81e9) == (f'7.8 GB free, {for_all}', False)
    text, is_loud = describe(7.80e9)
    assert text.startswith(f'TOO LITTLE: 7.8 GB free, but {for_all}; make room, or ') and is_loud
    assert describe(0.71e9)[1]
    assert (
        describe(8e9, 1)[0] == '8.0 GB free, 7.8 GB for 1 checkpoint of about 710.0 MB and one more while it is written'
    )
    assert describe(231e9, None) == ('231.0 GB free, about 710.0 MB for each checkpoint, all are kept', False)
    with pytest.raises(ValueError, match=r'about 710\.0 MB, and the disk of work has 709\.0 MB left: make room, or'):
        describe(0.709e9)
    assert describe_disk(None).text == 'not checked: checkpoints are not written, or not to a local disk'


def test_results_and_how_to_resume() -> None:
    hook = dict(type='SafeCheckpointHook', by_epoch=False, interval=16000)
    cfg = Config(dict(work_dir='work_dirs/a', default_hooks=dict(checkpoint=hook), train_cfg=dict(max_iters=20000)))
    assert describe_results(cfg, None) == ('results', 'work_dirs/a', False)
    assert describe_results(cfg, Room(Path('work_dirs/a'), 1, 1, 1, 1)).text == 'work_dirs/a'
    for pictures, text in (
        (dict(type='H'), ', pictures of the training in pictures/'),
        (dict(draw=False), ''),
        (None, ''),
    ):
        drawn = Config(dict(work_dir='work_dirs/a', default_hooks=dict(pictures=pictures)))
        assert describe_results(drawn, None).text == f'work_dirs/a{text}'
    assert describe_results(cfg, Room(Path('out/a'), 1, 1, 1, 1)).text == 'work_dirs/a, checkpoints in out/a'
    assert describe_resume(cfg) == (
        'resume',
        'the same command with --resume; a checkpoint is written every 16,000 iterations',
        False,
    )
    cfg.default_hooks.checkpoint = None
    assert describe_resume(cfg) == (
        'resume',
        'not possible: the config writes no checkpoints (default_hooks.checkpoint)',
        True,
    )
