"""--dry-run: both tasks, iterations and epochs, what it writes (nothing), and what it finds."""

import logging
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from tiny_training import VALIDATION, TwoLayers, make_config
from toys import DETECTOR, SEGMENTOR

from mmtwins.engine import dry_run
from mmtwins.engine.building import naming_first_steps
from mmtwins.engine.config import load_config
from mmtwins.engine.dry_run import dry_work_dir, prepare_dry_run
from mmtwins.engine.runner import build_runner

CallTool = Callable[..., subprocess.CompletedProcess]
DONE = re.compile(r'Dry run: a training iteration of [\d.]+ s \(loss [\d.]+\), a batch of the validation')


@pytest.fixture(autouse=True)
def _temporary_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr('mmengine.runner.runner.collect_env', dict)
    # A short path: data workers put sockets there, whose names may have a hundred characters, and hang if it is longer.
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(dry_run.tempfile, 'tempdir', folder)
        yield Path(folder)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob('*') if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def options_for(config: Path, toy_data: Path, **options: Any) -> list[str]:
    root = toy_data / ('coco' if config == DETECTOR else 'ade')
    options = {'data_root': root, 'train_dataloader.batch_size': 2, 'val_dataloader.batch_size': 1, **options}
    return ['--cfg-options', *(f'{key}={value}' for key, value in options.items())]


@pytest.mark.parametrize('config', [SEGMENTOR, DETECTOR], ids=['segmentor', 'detector'])
def test_both_tasks_leave_a_work_directory_as_it_was(
    config: Path, toy_data: Path, call_tool: CallTool, tmp_path: Path, _temporary_files: Path
) -> None:
    work_dir = tmp_path / 'work'
    work_dir.mkdir()
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'iter_9.pth'))
    (work_dir / '.lock').write_text('another process')
    before = contents(work_dir)
    done = call_tool('train.py', config, '--work-dir', work_dir, '--dry-run', *options_for(config, toy_data))
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert len(DONE.findall(output)) == output.count('Before the first iteration:') == 1
    assert len(re.findall(r'Iter\(train\)|Saving checkpoint', output)) <= 1
    assert f'  results  {work_dir}, pictures of the training in pictures/\n' in output
    assert contents(work_dir) == before
    assert not list(_temporary_files.iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {'work'}


def write_epochs(config: Path, path: Path) -> Path:
    """A lazy config, with classes in place of text, that trains a toy in epochs, averages weights and keeps the best."""
    text = load_config(str(config)).pretty_text
    path.write_text(
        'from mmengine.hooks import EMAHook\n'
        'from mmengine.optim import OptimWrapper\n'
        'from mmengine.runner import EpochBasedTrainLoop\n'
        'from torch.optim import AdamW\n'
        'from mmtwins import TwinsSVTBackbone\n'
        'from mmtwins.engine.checkpoint_hook import SafeCheckpointHook\n'
        f'{text}\n'
        'train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=3, val_interval=1)\n'
        "train_dataloader.update(sampler=dict(type='DefaultSampler', shuffle=True), num_workers=2)\n"
        'model["backbone"].update(type=TwinsSVTBackbone)\n'
        'optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3))\n'
        "default_hooks.update(checkpoint=dict(type=SafeCheckpointHook, interval=1, save_best='auto'))\n"
        'custom_hooks.append(dict(type=EMAHook))\n'
    )
    return path


@pytest.mark.parametrize('config', [SEGMENTOR, DETECTOR], ids=['segmentor', 'detector'])
def test_lazy_configs_in_epochs(config: Path, toy_data: Path, call_tool: CallTool, tmp_path: Path) -> None:
    path = write_epochs(config, tmp_path / 'epochs.py')
    done = call_tool('train.py', path, '--work-dir', 'work', '--dry-run', *options_for(config, toy_data))
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert DONE.search(output)
    assert '  resume   the same command with --resume; a checkpoint is written every epoch\n' in output
    assert re.search(r'GB free, [\d.]+ MB for 3 checkpoints of about', output)
    assert not (tmp_path / 'work').exists()


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    return make_config(tmp_path / 'work', **VALIDATION)


def try_out(cfg: Config) -> SystemExit:
    with pytest.raises(SystemExit) as end, dry_work_dir(cfg), naming_first_steps(runner := build_runner(cfg)):
        prepare_dry_run(runner)
        runner.train()
    return end.value


def test_one_iteration_and_one_batch(cfg: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []
    forward = TwoLayers.forward

    def count(model: TwoLayers, inputs: torch.Tensor, target: torch.Tensor, mode: str = 'tensor', **others: Any) -> Any:
        seen.append(mode)
        return forward(model, inputs, target, mode, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TwoLayers, 'forward', count)
        end = try_out(cfg)
    assert end.code == 0
    assert seen == ['loss', 'predict']
    assert not (tmp_path / 'work').exists()


def test_without_validation(cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(logging.Logger, 'info', lambda self, text, *args: said.append(str(text)))
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    assert try_out(cfg).code == 0
    assert re.fullmatch(
        r'Dry run: a training iteration of [\d.]+ s \(loss [\d.]+\), no validation, the config has none\. Nothing is '
        'written; without --dry-run the training starts',
        said[-1],
    )


def test_no_service_hears_of_it(cfg: Config) -> None:
    cfg.visualizer = dict(type='Visualizer', vis_backends=[dict(type='WandbVisBackend'), dict(type='LocalVisBackend')])
    with dry_work_dir(cfg):
        assert cfg.visualizer.vis_backends == [dict(type='LocalVisBackend')]
        assert Path(cfg.work_dir).is_dir()
    assert not Path(cfg.work_dir).exists()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'model.spoilt_at': 1}, 'the loss of the first iteration is inf; its batch: '),
        (
            {'default_hooks.checkpoint.save_best': 'mIoU', 'default_hooks.checkpoint.rule': 'greater'},
            "default_hooks.checkpoint.save_best is 'mIoU', which the validation does not measure: take loss",
        ),
    ],
)
def test_what_would_end_the_training_later(options: dict, message: str, tmp_path: Path) -> None:
    end = try_out(make_config(tmp_path / 'work', **VALIDATION, **options))
    assert str(end.code).startswith(f'error: {message}')


def test_a_best_checkpoint_by_a_metric_that_there_is(tmp_path: Path) -> None:
    for name in ('loss', 'auto'):
        cfg = make_config(tmp_path / 'work', **VALIDATION, **{'default_hooks.checkpoint.save_best': name})
        assert try_out(cfg).code == 0


def test_a_validation_that_fails_ends_in_one_sentence(
    toy_data: Path, call_tool: CallTool, tmp_path: Path, _temporary_files: Path
) -> None:
    options = options_for(SEGMENTOR, toy_data, **{'val_evaluator.iou_metrics': "['mIoo']"})
    done = call_tool('train.py', SEGMENTOR, '--work-dir', 'work', '--dry-run', *options)
    assert done.returncode == 1
    assert 'Traceback' not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith('error: '))
    assert f'{SEGMENTOR}: the first validation fails in ' in line and 'mIoo' in line
    (trace,) = _temporary_files.rglob('traceback.txt')
    assert str(trace) in line and 'mIoo' in trace.read_text()
    assert not (tmp_path / 'work').exists()


def test_a_resumed_training_is_tried_from_its_checkpoint(toy_data: Path, call_tool: CallTool, tmp_path: Path) -> None:
    work_dir = tmp_path / 'work'
    options = options_for(SEGMENTOR, toy_data, **{'train_cfg.max_iters': 2, 'train_cfg.val_interval': 100})
    options.append('val_dataloader.dataset.indices=1')
    assert call_tool('train.py', SEGMENTOR, '--work-dir', work_dir, *options).returncode == 0
    before = contents(work_dir)
    arguments = [SEGMENTOR, '--work-dir', work_dir, '--dry-run', '--resume', *options]
    done = call_tool('train.py', *arguments)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert f"  weights  {work_dir}/iter_2.pth, resumed at iteration 2: all of the backbone's weights\n" in output
    assert output.splitlines()[-1].endswith('Dry run: nothing is left to train, iteration 2 of 2 is done')
    done = call_tool('train.py', *arguments, 'train_cfg.max_iters=4')
    output = done.stdout + done.stderr
    assert done.returncode == 0 and DONE.search(output), output
    assert 'Resumed at iteration 2 without reading the images before it.' in output
    assert contents(work_dir) == before
    other = ['optim_wrapper.paramwise_cfg.norm_decay_mult=0.0', 'train_cfg.max_iters=4']
    done = call_tool('train.py', *arguments, *other)
    assert done.returncode == 1 and 'iter_2.pth: its optimizer is of another model: ' in done.stderr
    assert contents(work_dir) == before
