"""torchrun through the script: what a dying process does to the others, and what the user reads of it."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

CallTool = Callable[..., subprocess.CompletedProcess]
REPOSITORY = Path(__file__).parents[2]
MODULE = '''
import os, signal, time
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, MODELS

@MODELS.register_module()
class LittleModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, inputs, mode):
        return dict(loss=self.layer(torch.stack(inputs)).square().mean())

@DATASETS.register_module()
class LittleData(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return dict(inputs=torch.tensor([float(index)]))

@HOOKS.register_module()
class DyingHook(Hook):
    """Kills the process of rank 1 in the third iteration, if the environment names a file for the time."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.rank == 1 and runner.iter == 2 and 'TIME_OF_DEATH' in os.environ:
            with open(os.environ['TIME_OF_DEATH'], 'w') as file:
                file.write(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)
'''
CONFIG = """
custom_imports = dict(imports=['little'], allow_failed_imports=False)
model = dict(type='LittleModel')
train_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True), dataset=dict(type='LittleData'))
train_cfg = dict(by_epoch=False, max_iters=4)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2))
custom_hooks = [dict(type='DyingHook')]
log_processor = dict(by_epoch=False)
"""


def test_a_launcher_alone_ends_in_one_line(
    call_tool: CallTool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('RANK', raising=False)
    for tool in (['train.py'], ['test.py', 'a.pth']):
        result = call_tool(tool[0], tmp_path / 'config.py', *tool[1:], '--launcher', 'pytorch')
        assert result.returncode == 1
        assert result.stderr.startswith(
            'error: --launcher pytorch is for processes that torchrun starts, and RANK is not set:'
        )
        assert result.stderr.count('\n') == 1
    for script in ('dist_train.sh', 'dist_test.sh'):
        command = [
            REPOSITORY / 'tools' / script,
            'C.py',
            '--resume',
            'x.pth',
        ]  # the number of GPUs is missing or misplaced
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 2
        assert result.stderr.startswith('usage: ')


def test_torchrun_is_told_to_hand_on_the_signal_of_batch_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'torchrun').write_text('#!/bin/sh\necho "$PET_SIGNALS_TO_HANDLE"\n')
    (tmp_path / 'torchrun').chmod(0o755)
    command = [REPOSITORY / 'tools' / 'dist_train.sh', 'C.py', '2']
    env = {**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}'}
    signals = subprocess.run(command, env=env, capture_output=True, text=True).stdout.strip()
    assert signals == 'SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1'
    monkeypatch.setenv('PET_SIGNALS_TO_HANDLE', signals)
    args = pytest.importorskip('torch.distributed.run').get_args_parser().parse_args(['train.py'])
    if not hasattr(args, 'signals_to_handle'):
        pytest.skip('this PyTorch hands on SIGTERM and SIGINT alone')
    assert args.signals_to_handle == signals


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_and_is_named(tmp_path: Path) -> None:
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip('needs a PyTorch with gloo')
    (tmp_path / 'little.py').write_text(MODULE)
    (tmp_path / 'config.py').write_text(CONFIG)
    death, work_dir = tmp_path / 'time', tmp_path / 'work'
    env = {
        **os.environ, 'OMP_NUM_THREADS': '1', 'TIME_OF_DEATH': str(death),
        'PYTHONPATH': f'{tmp_path}:{REPOSITORY}', 'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
    }  # fmt: skip
    command = [REPOSITORY / 'tools' / 'dist_train.sh', tmp_path / 'config.py', '2', '--work-dir', work_dir]
    result = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert death.is_file(), result.stderr
    assert time.time() - float(death.read_text()) < 60
    assert result.returncode == 1
    assert re.search(r'Root Cause.*\n.*\n.*\n.*\n +rank +: 1 .*\n +exitcode +: -9 .*SIGKILL', result.stderr), (
        result.stderr
    )
    assert (work_dir / 'iter_2.pth').is_file()
    assert not (work_dir / 'iter_4.pth').exists()
