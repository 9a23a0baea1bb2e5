"""What a training says on the terminal: no tables, and at its end where the weights are."""

import logging
import re
import shlex
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine._strategy import BaseStrategy
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.runner import Runner

from mmtwins.engine.console import (
    WARNINGS,
    WithoutTables,
    describe_end,
    only_errors,
    quiet_terminal,
    silence_libraries,
)

(CONFIG,) = (Path(__file__).parents[2] / 'configs' / 'toy').glob('upernet*.py')


@pytest.mark.parametrize(
    ('message', 'is_shown'),
    [
        ('\n----\nSystem environment:\n    sys.platform: linux', False),
        ('Config:\nmodel = dict()', False),
        ('Hooks will be executed in the following order:\nbefore_run:', False),
        ('paramwise_options -- backbone.norm.weight:lr=6e-05', False),
        ('backbone.norm.weight is skipped since its requires_grad=False', False),
        ('The prefix is not set in metric class IoUMetric.', False),
        ('Exp name: upernet_20260101_000000', False),
        ('Iter(train) [50/160000]  lr: 1.0e-06  loss: 3.0', True),
        ('Config CONFIG.py has another number of classes', True),
        ('Distributed training is not used, all SyncBatchNorm (SyncBN) layers in the model will be reverted', True),
        ('Checkpoints will be saved to work_dirs/a.', True),
    ],
)
def test_the_terminal_has_no_tables(message: str, is_shown: bool) -> None:
    record = logging.LogRecord('a', logging.INFO, 'a.py', 1, message, None, None)
    assert WithoutTables().filter(record) == is_shown


def test_loggers_pass_on_errors_only_and_have_their_levels_again(caplog: pytest.LogCaptureFixture) -> None:
    first, second = logging.getLogger('mmtwins.first'), logging.getLogger('mmtwins.second')
    first.setLevel(logging.INFO)
    with pytest.raises(ValueError, match='inside'), only_errors(first, second):
        for logger in (first, second):
            logger.warning('a note')
            logger.error('an error')
        raise ValueError('inside')
    assert caplog.messages == ['an error', 'an error']
    assert (first.level, second.level) == (logging.INFO, logging.NOTSET)


def test_only_runners_that_are_built_inside_are_quiet(tmp_path: Path) -> None:
    before = Runner.build_logger, BaseStrategy.build_logger

    def filters(name: str) -> list[int]:
        model = dict(type='TwinsSVTBackbone', out_indices=(0, 1, 2, 3))
        cfg = Config(dict(model=model, work_dir=str(tmp_path / name), experiment_name=name, env_cfg={}))
        logger = Runner.from_cfg(cfg).logger
        assert isinstance(logger, MMLogger) and len(logger.handlers) == 2
        return [len([one for one in handler.filters if isinstance(one, WithoutTables)]) for handler in logger.handlers]

    with pytest.raises(ZeroDivisionError), quiet_terminal():
        assert filters('inside') == [1, 0]  # the terminal, the file
        raise ZeroDivisionError
    assert (Runner.build_logger, BaseStrategy.build_logger) == before
    assert filters('outside') == [0, 0]


def test_the_libraries_own_warnings_are_ignored_and_no_others() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        silence_libraries()
        for message in (
            'pkg_resources is deprecated as an API.',
            'Default ``avg_non_ignore`` is False, if you',
            'mine',
        ):
            warnings.warn(message, stacklevel=1)
    assert [str(one.message) for one in caught] == ['mine']
    assert len(WARNINGS) == len(set(WARNINGS))


class Ended:
    """As much of a Runner after its training as is read."""

    def __init__(self, work_dir: Path, scalars: dict[str, list[float]], **info: object) -> None:
        self.work_dir, self.cfg = str(work_dir), SimpleNamespace(filename='own config.py')
        self.message_hub = MessageHub.get_instance(work_dir.name + str(sorted(scalars)) + str(sorted(info)))
        for name, values in scalars.items():
            for value in values:
                self.message_hub.update_scalar(f'val/{name}', value)
        for name, value in info.items():
            self.message_hub.update_info(name, value)


def test_the_end_names_metric_weights_and_the_command(tmp_path: Path) -> None:
    last, best = tmp_path / 'iter_9.pth', tmp_path / 'best_mIoU.pth'
    last.touch()
    lines = describe_end(Ended(tmp_path, dict(aAcc=[50, 60], mIoU=[41.234, 43.456, 42.0]), last_ckpt=str(last))).split(
        '\n'
    )
    assert lines[0] == 'mIoU: 42, the best of 3 validations 43.46'
    assert lines[1] == f'The weights are in {last}. To predict with them:'
    words = ['mmtwins', 'predict', 'own config.py', str(last), 'IMAGE', '--out', 'predicted']
    assert shlex.split(lines[2].removeprefix('python -m ')) == words
    whole = tmp_path / 'own config.py'  # as MMEngine writes it, with the options of the command line
    whole.touch()
    lines = describe_end(Ended(tmp_path, {}, last_ckpt=str(last))).split('\n')
    assert shlex.split(lines[1].removeprefix('python -m '))[2] == str(whole)
    best.touch()
    ended = Ended(tmp_path, {'coco/bbox_mAP': [0.3], 'coco/segm_mAP': [0.2]}, last_ckpt=str(last), best_ckpt=str(best))
    lines = describe_end(ended).split('\n')
    assert lines[0].startswith('coco/segm_mAP: 0.2') and str(best) in lines[1]
    lines = describe_end(Ended(tmp_path, {'accuracy/top1': [9.0, 8.0]}, last_ckpt=str(last))).split('\n')
    assert lines[0] == 'accuracy/top1: 8, the best of 2 validations 9'
    for ended in (Ended(tmp_path, {}), Ended(tmp_path, {}, last_ckpt=str(tmp_path / 'gone.pth'))):
        assert describe_end(ended) == f'No checkpoint was written to {tmp_path}.'


def test_a_training_shows_its_first_line_early_and_the_file_has_all(
    toy_data: Path, call_tool: Callable[..., subprocess.CompletedProcess], tmp_path: Path
) -> None:
    pytest.importorskip('mmseg')
    options = {
        'data_root': toy_data / 'ade',
        'train_dataloader.batch_size': 2,
        'train_cfg.max_iters': 2,
        'train_cfg.val_interval': 2,
        'default_hooks.logger.interval': 1,
        'model.backbone.arch.depths': '(1,1,1,1)',
    }
    work_dir = tmp_path / 'work'
    done = call_tool(
        'train.py', CONFIG, '--work-dir', work_dir, '--cfg-options', *(f'{k}={v}' for k, v in options.items())
    )
    assert done.returncode == 0, done.stderr
    lines = (done.stdout + done.stderr).splitlines()
    first = next(i for i, line in enumerate(lines) if 'Iter(train)' in line)
    assert first < 25, lines[:first]
    (log,) = work_dir.rglob('*.log')
    text = log.read_text()
    assert all(part in text for part in ('System environment', 'Config:', 'Hooks will be executed'))
    command = next(line for line in lines if 'mmtwins predict ' in line)
    assert f'{work_dir}/iter_2.pth' in command
    metric = re.search(r'mIoU: ([\d.]+), the best of 1 validations \1', done.stdout)
    assert metric is not None and np.isfinite(float(metric[1]))
