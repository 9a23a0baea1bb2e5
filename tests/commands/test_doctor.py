"""`mmtwins doctor` as a user runs it: its exit codes, and that nothing ends it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmtwins.commands import doctor

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(('ready', 'code'), [(True, 0), (False, 1)])
def test_the_exit_code_and_json(
    ready: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(doctor, 'examine', lambda: {'ready': ready})
    with pytest.raises(SystemExit) as end:
        doctor.main(['--json'])
    assert end.value.code == code
    assert json.loads(capsys.readouterr().out) == {'ready': ready}


def test_ctrl_c_ends_it_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, 'examine', interrupted)
    with pytest.raises(SystemExit) as end:
        doctor.main([])
    assert end.value.code == 130
    assert capsys.readouterr() == ('', '\nstopped by Ctrl-C.\n')


def test_it_survives_packages_whose_import_raises_exits_or_crashes(tmp_path: Path) -> None:
    """All at once, rich and numpy among them: it has Python alone then, and still says what to do."""
    codes = {
        'torch': 'raise RuntimeError("a broken torch")',
        'mmengine': 'raise SystemExit("bye")',
        'mmcv': 'import os, signal; os.kill(os.getpid(), signal.SIGABRT)',
        'mmseg': 'import os; os._exit(0)',
        'mmdet': '1 +',
        'rich': 'raise KeyError("rich")',
        'rich_argparse': 'raise ValueError',
        'argcomplete': 'raise OSError(5, "disk")',
        'yaml': 'raise MemoryError',
        **dict.fromkeys(('numpy', 'cv2', 'safetensors', 'huggingface_hub', 'gradio', 'onnx', 'onnxscript', 'onnxruntime'), '!'),
        **dict.fromkeys(('av', 'pydantic', 'matplotlib', 'pycocotools', 'filelock'), 'raise ImportError("no")'),
    }  # fmt: skip
    for name, code in codes.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / '__init__.py').write_text(code)
    env = {**os.environ, 'PYTHONPATH': f'{tmp_path}:{os.environ["PYTHONPATH"]}'}
    for argv in (['doctor'], ['doctor', '--json']):
        command = [sys.executable, '-m', 'mmtwins', *argv]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1, done.stderr
        assert 'Traceback' not in done.stdout + done.stderr
        report = json.loads(done.stdout)
        tried = report['tried']
        assert tried['torch']['failure'] == 'RuntimeError: a broken torch'
        assert tried['mmengine']['failure'] == 'SystemExit: bye'
        assert tried['mmcv']['failure'] == 'ends the process (SIGABRT)'
        assert tried['mmseg']['failure'] == 'ends the process (exit code 0)'
        assert tried['mmdet']['failure'].startswith('SyntaxError')
        assert set(report['commands']['train']) >= {'torch', 'mmcv', 'mmseg or mmdet or mmpretrain'}
        assert len(report['remedies']) >= 8
