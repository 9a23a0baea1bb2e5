"""The command `mmtwins`: its table of commands, errors, help, examples, completion, and that it starts quickly."""

import importlib.util
import os
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmtwins import __version__
from mmtwins.commands import entry
from mmtwins.commands.parsing import parser_of
from mmtwins.commands.table import COMMANDS

ROOT = Path(__file__).parents[2]
THERE = [name for name, one in COMMANDS.items() if importlib.util.find_spec(f'mmtwins.commands.{one.module}')]


def run(*argv: str) -> int:
    """The exit code of the command."""
    with pytest.raises(SystemExit) as end:
        entry.main(argv)
    assert isinstance(end.value.code, int | None)
    return end.value.code or 0


def test_the_issues_commands_are_there() -> None:
    wanted = 'list train test predict convert export attention cost benchmark app swap doctor'
    assert set(wanted.split()) <= set(COMMANDS)


def test_every_tool_has_its_command_and_every_command_its_tool() -> None:
    pages = {'models_page.py', 'export_matrix.py', 'study_gsa.py', 'gpu_report.py'}  # which they write
    tools = {path.name for path in (ROOT / 'tools').glob('*.py')} - pages
    tools = {name for name in tools if not name.startswith('setup_')}
    named = {COMMANDS[name].tool for name in THERE} | {'gsa_cost.py'}
    assert tools == named - {''}
    for path in sorted(tools - {'gsa_cost.py'}):
        (module,) = (one.module for one in COMMANDS.values() if one.tool == path)
        assert f'from mmtwins.commands.{module} import ' in (ROOT / 'tools' / path).read_text()


def test_without_a_command_all_of_them_are_listed(capsys: pytest.CaptureFixture) -> None:
    assert run() == 0
    text = capsys.readouterr().out
    assert run('--help') == 0
    assert capsys.readouterr().out == text
    for name, command in COMMANDS.items():
        assert name in text and command.summary.split()[0] in text


def test_the_version(capsys: pytest.CaptureFixture) -> None:
    assert run('--version') == 0
    assert capsys.readouterr().out == f'mmtwins {__version__}\n'


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['trian'], "'trian' is no command: perhaps train is meant"),
        (['zzz'], "'zzz' is no command: choose from list, train"),
        (['--nothing'], 'unrecognized arguments: --nothing'),
        (['list', '--task', 'cooking'], 'invalid choice'),
        (['predict', 'c', 'x', 'a', '--out', 'o', '--batch-size', '0'], '--batch-size 0: give at least 1 image'),
    ],
)
def test_wrong_arguments_end_with_2(argv: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert run(*argv) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(('result', 'code'), [(None, 0), (0, 0), (1, 1), (130, 130)])
def test_the_exit_code_is_that_of_the_command(result: int | None, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []
    module = SimpleNamespace(main=lambda argv: given.append(argv) or result)
    monkeypatch.setattr(entry, 'import_module', lambda name, package: module)
    assert run('swap', 'a', '--b') == code
    assert given == [['a', '--b']]


@pytest.mark.parametrize('name', THERE)
def test_help_shows_defaults_and_an_example_that_can_be_read(name: str, capsys: pytest.CaptureFixture) -> None:
    assert run(name, '--help') == 0
    text = capsys.readouterr().out
    module = import_module(f'mmtwins.commands.{COMMANDS[name].module}')
    assert f'sage: mmtwins {name} ' in text
    assert module.EXAMPLE in text
    program, command, *argv = shlex.split(module.EXAMPLE)
    assert (program, command) == ('mmtwins', name)
    parser = parser_of(name)
    args = parser.parse_args(argv)
    if isinstance(getattr(args, 'config', None), str) and name != 'check-run':
        from mmtwins.engine.config_names import find_config

        assert Path(find_config(args.config)).is_file()
    for action in parser._actions:
        is_optional = action.option_strings and action.nargs != 0 and not action.required
        if is_optional and action.help and action.help != '==SUPPRESS==':
            assert 'default: ' in action.help, f'{name} {action.option_strings}: its help states no default'


@pytest.mark.parametrize('name', ['list', 'cost'])
def test_a_cheap_example_runs(name: str, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    if name == 'cost':
        pytest.importorskip('mmseg')
    module = import_module(f'mmtwins.commands.{COMMANDS[name].module}')
    module.main(shlex.split(module.EXAMPLE)[2:])
    assert 'MACs' in capsys.readouterr().out


def test_a_reader_that_goes_ends_it_quietly() -> None:
    command = f'{shlex.quote(sys.executable)} -m mmtwins list | head -1'
    done = subprocess.run(['bash', '-c', command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')


@pytest.mark.parametrize(('command', 'code', 'message'), [
    ('list >&-', 0, ''),
    ('--help >&-', 0, ''),
    ('list >/dev/full', 1, 'error: No space left on device: make room\n'),
])  # fmt: skip
def test_nowhere_to_write(command: str, code: int, message: str) -> None:
    command = f'{shlex.quote(sys.executable)} -m mmtwins {command}'
    done = subprocess.run(['bash', '-c', command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, message)


@pytest.mark.parametrize('argv', [['--help'], ['train', '--help'], ['list', '--json'], ['list', '--help'], ['train']])
def test_it_starts_without_torch(argv: list[str], tmp_path: Path) -> None:
    for name in ('torch', 'mmengine'):
        (tmp_path / f'{name}.py').write_text('raise RuntimeError("imported")')
    env = {**os.environ, 'PYTHONPATH': f'{tmp_path}:{os.environ["PYTHONPATH"]}'}
    done = subprocess.run([sys.executable, '-m', 'mmtwins', *argv], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == (2 if argv == ['train'] else 0), done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(
    ('line', 'expected', 'absent'),
    [
        ('mmtwins tr', {'train '}, {'test'}),
        ('mmtwins ', set(COMMANDS), set()),
        ('mmtwins train --from', {'--from-scratch '}, set()),
        ('mmtwins list --task ', {'segmentation', 'detection'}, set()),
        ('mmtwins train retinanet_twins-svt-s', {'retinanet_twins-svt-s_fpn_8xb2-1x_coco'}, {'upernet'}),
        ('mmtwins convert a b --to mm', {'mmseg', 'mmpretrain'}, {'timm'}),
    ],
)
def test_a_shell_completes(line: str, expected: set[str], absent: set[str], tmp_path: Path) -> None:
    pytest.importorskip('argcomplete')
    (tmp_path / 'torch.py').write_text('raise RuntimeError("imported")')
    answer = tmp_path / 'answer'
    env = {
        **os.environ, '_ARGCOMPLETE': '1', '_ARGCOMPLETE_IFS': '\n', 'COMP_LINE': line, 'COMP_POINT': str(len(line)),
        'COMP_TYPE': '9', '_ARGCOMPLETE_STDOUT_FILENAME': str(answer), '_ARGCOMPLETE_SUPPRESS_SPACE': '0',
        'PYTHONPATH': f'{tmp_path}:{os.environ["PYTHONPATH"]}',
    }  # fmt: skip
    done = subprocess.run([sys.executable, '-m', 'mmtwins'], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = answer.read_text().split('\n')
    names = {name.strip() for name in found}
    assert {name.strip() for name in expected} <= names
    assert not absent & names
