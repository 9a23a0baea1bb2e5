"""Registration: the names of the package, and programs that import them later."""

import subprocess
import sys
from pathlib import Path

import pytest

import mmtwins
from mmtwins import registration

ROOT = Path(__file__).parents[1]


def test_the_package_offers_what_is_registered() -> None:
    assert sorted(mmtwins.__all__) == sorted([*registration.__all__, *mmtwins.LAZY])
    for name in registration.__all__:
        assert getattr(mmtwins, name) is getattr(registration, name)


@pytest.mark.parametrize(
    ('program', 'given', 'light'),
    [
        ('-m', ['python', '-m', 'mmtwins', 'list'], True),
        ('-m', ['python', '-W', 'ignore', '-m', 'mmtwins'], True),
        ('-m', ['python', '-m', 'pytest', 'mmtwins'], False),
        ('/venv/bin/other', ['python', '/venv/bin/other'], False),
        (f'{ROOT}/tools/train.py', ['python', '-u', f'{ROOT}/tools/train.py'], True),
        (f'{ROOT}/other/train.py', ['python', f'{ROOT}/other/train.py'], False),
        (f'{ROOT}/tools/train.py', ['python', '-c', 'from multiprocessing.spawn import ...'], False),  # its child
        ('', ['python'], False),
    ],
)
def test_who_starts_as_the_command(
    program: str, given: list[str], light: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, 'argv', [program])
    monkeypatch.setattr(sys, 'orig_argv', given)
    assert mmtwins._starts_command() is light


@pytest.mark.parametrize(
    ('text', 'light'),
    [
        ('#!python\nimport sys\nfrom mmtwins.__main__ import main\nsys.exit(main())\n', True),
        ('import mmtwins\n', False),
    ],
)
def test_a_users_own_script_of_our_name_is_not_the_command(
    text: str, light: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / 'mmtwins'
    script.write_text(text)
    monkeypatch.setattr(sys, 'argv', [str(script)])
    monkeypatch.setattr(sys, 'orig_argv', ['python', str(script)])
    assert mmtwins._starts_command() is light


def test_a_command_registers_when_it_needs_it() -> None:
    code = """
import sys
sys.argv, sys.orig_argv = ['-m', 'list'], [sys.executable, '-m', 'mmtwins', 'list']
import mmtwins
assert 'torch' not in sys.modules
from mmtwins import TwinsSVTBackbone
from mmengine.registry import MODELS
assert MODELS.get('TwinsSVTBackbone') is TwinsSVTBackbone
assert not hasattr(mmtwins, 'nothing')
"""
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
