"""The block before the first iteration, whole, and data and disks with which no training begins."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from PIL import Image
from tiny_training import make_config
from toys import DETECTOR, SEGMENTOR

from mmtwins.datasets.data_report import Report, SourceReport
from mmtwins.engine import preflight
from mmtwins.engine.hooks import CheckBatchSizeHook
from mmtwins.engine.preflight import PreflightHook, announce, look_ahead
from mmtwins.engine.runner import build_runner

CallTool = Callable[..., subprocess.CompletedProcess]
REPORT = Report([SourceReport('train: train_dataloader.dataset', 'FixedNumbers')])


@pytest.fixture
def cfg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    return make_config(tmp_path / 'work', **{'train_cfg.max_iters': 1})


def run(cfg: Config) -> list[tuple[str, list[str]]]:
    """Train, and return the level and the lines of each block in the log."""
    runner = build_runner(cfg)
    announce(runner, look_ahead(cfg, {}, REPORT))
    runner.train()
    log = next(Path(cfg.work_dir).rglob('*.log')).read_text()
    found = re.findall(r'mmengine - (\w+) - Before the first iteration:\n((?:[ !] .*\n)+)', log)
    assert log.index('Before the first iteration') < log.index('Saving checkpoint')
    return [(level, block.splitlines()) for level, block in found]


def test_the_block_stands_in_the_log_once(cfg: Config) -> None:
    ((level, lines),) = run(cfg)
    assert level == 'INFO'
    assert [line[:11] for line in lines] == [
        '  weights  ', '  batch    ', '  classes  ', '  disk     ', '  results  ', '  resume   '
    ]  # fmt: skip
    assert lines[0][11:] == 'random: the config names no checkpoint'
    assert ' x 4 images = 4 a step; for how many the learning rate 0.01 is, ' in lines[1]
    assert lines[2][11:] == 'not checked in FixedNumbers'
    assert re.search(r' GB free, 0\.0 MB for 1 checkpoint of about 0\.0 MB and one more', lines[3])
    assert lines[4][11:] == cfg.work_dir
    assert lines[5][11:] == 'the same command with --resume; a checkpoint is written every 4 iterations'


def test_a_line_to_act_on_is_marked_and_makes_the_block_a_warning(cfg: Config) -> None:
    cfg.auto_scale_lr = dict(base_batch_size=16)
    ((level, lines),) = run(cfg)
    assert level == 'WARNING'
    assert [line[0] for line in lines] == [' ', '!', ' ', ' ', ' ', ' ']
    log = next(Path(cfg.work_dir).rglob('*.log')).read_text()
    assert log.count('auto-scale-lr') == 1  # CheckBatchSizeHook is silent


def test_other_processes_than_the_first_say_nothing(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = build_runner(cfg)
    announce(runner, None)
    assert not any(isinstance(hook, PreflightHook | CheckBatchSizeHook) for hook in runner.hooks)
    said: list[Any] = []
    hook: Hook = PreflightHook(look_ahead(cfg, {}, REPORT))
    monkeypatch.setattr(runner.logger, 'log', lambda *args: said.append(args))
    monkeypatch.setattr(preflight, 'is_main_process', lambda: False)
    hook.before_train(runner)
    assert not said
    monkeypatch.setattr(preflight, 'is_main_process', lambda: True)
    hook.before_train(runner)
    assert len(said) == 1


def rewrite_labels(root: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for path in (root / 'annotations/training').iterdir():
        labels = np.asarray(Image.open(path))
        Image.fromarray(change(labels).astype(np.uint8)).save(path)


def all_ignored(root: Path) -> None:
    rewrite_labels(root, lambda labels: np.full_like(labels, 255))


def from_zero_on(root: Path) -> None:
    rewrite_labels(root, lambda labels: np.maximum(labels, 1) - 1)


def one_too_large(root: Path) -> None:
    rewrite_labels(root, lambda labels: labels + 1)


def change_categories(root: Path, change: Callable[[list[dict]], None]) -> None:
    path = root / 'annotations/instances_train2017.json'
    content = json.loads(path.read_text())
    change(content['categories'])
    path.write_text(json.dumps(content))


def rename(root: Path) -> None:
    change_categories(root, lambda found: [one.update(name=f'thing {one["id"]}') for one in found] and None)


@pytest.mark.parametrize(
    ('config', 'spoil', 'message'),
    [
        (SEGMENTOR, all_ignored, 'no pixel has a class, all are ignored'),
        (SEGMENTOR, from_zero_on, 'the values 0 to 8 occur and 9, the last class, never does'),
        (
            SEGMENTOR,
            one_too_large,
            'label images have values that are no class: 10; with 9 classes they go from 1 to 9',
        ),
        (DETECTOR, rename, "none of the config's classes is a category of the file ('ball'"),
    ],
)
def test_data_that_do_not_fit_the_classes_end_in_a_sentence(
    config: Path, spoil: Callable, message: str, toy_data: Path, call_tool: CallTool, tmp_path: Path
) -> None:
    root = tmp_path / 'data'
    shutil.copytree(toy_data / ('ade' if config == SEGMENTOR else 'coco'), root)
    spoil(root)
    for extra in ([], ['--dry-run']):
        done = call_tool('train.py', config, '--work-dir', 'work', *extra, '--cfg-options', f'data_root={root}')
        assert done.returncode == 1
        head, first, *_ = done.stderr[done.stderr.index('error: ') :].splitlines()
        assert head == 'error: the data cannot be trained on'
        assert first.startswith(str(root)) and message in first
        assert 'Traceback' not in done.stderr and not (tmp_path / 'work').exists()


def test_heads_for_another_number_of_classes_end_in_a_sentence(
    toy_data: Path, call_tool: CallTool, tmp_path: Path
) -> None:
    options = [f'data_root={toy_data / "coco"}', 'model.roi_head.bbox_head.num_classes=80']
    done = call_tool('train.py', DETECTOR, '--work-dir', 'work', '--cfg-options', *options)
    assert done.returncode == 1 and not (tmp_path / 'work').exists()
    assert 'has 6 classes, but heads of the model have another number (model.roi_head.bbox_head.num' in done.stderr


def test_no_training_begins_on_a_full_disk(
    toy_data: Path, call_tool: CallTool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5_000_000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    options = ['--cfg-options', f'data_root={toy_data / "ade"}']
    done = call_tool('train.py', SEGMENTOR, '--work-dir', 'work', *options)
    assert done.returncode == 1 and not (tmp_path / 'work').exists()
    assert done.stderr.splitlines()[-1] == (
        'error: a checkpoint needs about 25.1 MB, and the disk of work has 5.0 MB left: make room, or name another folder '
        'with --work-dir'
    )
