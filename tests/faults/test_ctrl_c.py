"""Ctrl-C in the tools: no traceback, exit code 130; a training saves first and says how to continue."""

import ast
import importlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools'


def interrupted(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ('tool', 'function', 'arguments'),
    [
        ('test.py', 'mmtwins.engine.config.load_config', ['C.py', 'x.pth']),
        ('benchmark.py', 'mmtwins.benchmark.suite.run_tasks', ['--size', '64x64']),
        ('gsa_cost.py', 'mmtwins.analysis.cost_report.report_costs', ['--size', '64x64']),
        (
            'visualize_attention.py',
            'mmtwins.inference.inferencers.load_inferencer',
            ['C.py', 'x.pth', 'a.jpg', '--points', '1', '1', '--out', 'a.png'],
        ),
        ('infer.py', 'mmtwins.inference.sources.find_sources', ['C.py', 'x.pth', '.', '--out', 'out']),
        ('train.py', 'mmtwins.engine.config.load_config', ['C.py']),
    ],
)
def test_no_tool_prints_a_traceback(
    tool: str, function: str, arguments: list[str], call_tool: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # It takes functions by name. Imported first by a tool below, it would keep the one that stops.
    importlib.import_module('mmtwins.inference.predictor')
    monkeypatch.setattr(function, interrupted)
    done = call_tool(tool, *arguments)
    assert done.returncode == 130, done
    assert done.stderr.strip() == 'stopped by Ctrl-C.'


def test_what_has_nothing_to_compare_has_a_code_of_its_own(
    call_tool: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('mmtwins.analysis.run_log.read_run', interrupted)
    done = call_tool('check_run.py', 'work')
    assert (done.returncode, done.stderr.strip()) == (130, 'stopped by Ctrl-C.')


# These write pages of the documentation, and are no doors to a command.
PAGES = {'models_page.py', 'export_matrix.py', 'study_gsa.py', 'gpu_report.py'}
DOORS = sorted({path.name for path in TOOLS.glob('*.py') if not path.name.startswith('setup_')} - PAGES)


@pytest.mark.parametrize('tool', DOORS)
def test_a_tool_imports_nothing_but_its_command(tool: str) -> None:
    tree = ast.parse((TOOLS / tool).read_text())
    (module,) = (node.module for node in tree.body if isinstance(node, ast.ImportFrom))
    assert module.startswith('mmtwins.commands.')
    assert all(alias.name == 'sys' for node in tree.body if isinstance(node, ast.Import) for alias in node.names)


def tool_process(folder: Path, tool: str, *arguments: Any) -> subprocess.Popen:
    """Start a tool as a shell does."""
    return python_process(folder, TOOLS / tool, *arguments)


def python_process(folder: Path, *arguments: Any) -> subprocess.Popen:
    """Start Python as a shell does; modules in the folder come first."""
    return subprocess.Popen(
        [sys.executable, '-u', *map(str, arguments)],
        cwd=folder,
        env=dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=f'{folder}:{os.environ["PYTHONPATH"]}'),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.mark.parametrize(
    'command',
    [
        [str(TOOLS / 'test.py'), 'C.py', 'x.pth'],
        ['-m', 'mmtwins', 'test', 'C.py', 'x.pth'],
        [f'{TOOLS}/../tools/infer.py', *'abc', '--out', 'd'],
    ],
    ids=['tool', 'module', 'tool by another path'],
)
def test_while_torch_is_imported(command: list[str], tmp_path: Path) -> None:
    (tmp_path / 'torch').mkdir()
    # Not one long sleep: a signal that comes just before it is handled only after it.
    code = 'import time\nprint("importing", flush=True)\nfor _ in range(600):\n    time.sleep(0.1)\n'
    (tmp_path / 'torch' / '__init__.py').write_text(code)
    process = python_process(tmp_path, *command)
    assert process.stdout is not None and process.stdout.readline() == 'importing\n'
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and not output, output


@pytest.mark.slow
def test_a_training_is_saved_and_continues(toy_data: Path, call_tool: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip('mmseg')
    (config,) = (ROOT / 'configs' / 'toy').glob('upernet*.py')
    options = {
        'data_root': toy_data / 'ade',
        'train_dataloader.batch_size': 2,
        'train_cfg.val_interval': 100,
        'default_hooks.logger.interval': 1,
        'model.backbone.arch.depths': '(1,1,1,1)',
    }
    arguments = [config, '--work-dir', tmp_path / 'work', '--cfg-options', *(f'{k}={v}' for k, v in options.items())]
    process = tool_process(tmp_path, 'train.py', *arguments)
    output = ''
    for line in process.stdout:
        output += line
        if re.search(r'Iter\(train\) \[ +3/', line):
            process.send_signal(signal.SIGINT)
            break
    output += process.communicate(timeout=120)[0]
    assert process.returncode == 130, output
    assert 'Traceback' not in output
    found = re.search(
        r'Stopped by SIGINT after iteration (\d+)\. (\S+) is written; the same command with --resume', output
    )
    assert found is not None, output[-2000:]
    done = int(found[1])
    assert Path(found[2]) == tmp_path / 'work' / f'iter_{done}.pth' and Path(found[2]).is_file()
    arguments[-1:] = [arguments[-1], f'train_cfg.max_iters={done + 1}', '--resume']
    continued = call_tool('train.py', *arguments)
    output = continued.stdout + continued.stderr
    assert f'The training continues from {found[2]}' in output
    assert f'resumed epoch: 0, iter: {done}' in output
    assert 'Traceback' not in output
    assert [path.name for path in (tmp_path / 'work').glob('*.pth')] == [f'iter_{done + 1}.pth']
