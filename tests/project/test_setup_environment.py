"""The set-up script: what it refuses, what it keeps, what it never does twice. No network."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / 'tools').glob('setup_*.py'))
IMPORT = f'import sys; sys.path.insert(0, {str(ROOT / "tools")!r}); import setup_environment as s\n'
PYTHON = f'python3.{sys.version_info[1]}'


@pytest.mark.parametrize(
    ('options', 'code', 'part'), [(['--help'], 0, 'COMMAND'), (['--nope'], 2, '--nope'), (['x'], 2, 'x')]
)
def test_options_are_explained_or_refused_before_anything_is_done(script, monkeypatch, capsys, options, code, part):
    monkeypatch.setattr(script, 'find_environment', lambda: pytest.fail('it sets up'))
    with pytest.raises(SystemExit) as ended:
        script.main([*options, '--', 'python', '--version'])
    assert ended.value.code == code
    assert part in ''.join(capsys.readouterr())


@pytest.mark.parametrize('version', [(3, 9, 18), (3, 15, 0)])
def test_an_unsuitable_python_is_refused(script, monkeypatch, version):
    monkeypatch.setattr(sys, 'version_info', version)
    with pytest.raises(script.SetupError) as error:
        script.check_python()
    assert 'mmtwins needs 3.10 to 3.14.' in error.value.args[0]
    assert 'make demo PYTHON=python3.11' in error.value.args[1]


def test_the_supported_pythons_are_those_of_the_package(script, monkeypatch):
    text = (ROOT / 'setup.py').read_text()
    assert "python_requires='>=3.10,<3.15'" in text
    assert '3.10 to 3.14' in (ROOT / 'Makefile').read_text()
    for minor in (10, 11, 12, 13, 14):
        assert f"'Programming Language :: Python :: 3.{minor}'" in text
        monkeypatch.setattr(sys, 'version_info', (3, minor, 0))
        script.check_python()


def test_the_table_of_the_documentation_has_all_cells_of_the_noxfile():
    tree = ast.parse((ROOT / 'noxfile.py').read_text())
    cells = next(node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == 'CELLS')
    rows = re.findall(r'(?m)^\| (3\.\d+) \| ([\d.]+) \| (.+) \|$', (ROOT / 'docs' / 'installation.md').read_text())
    assert [(python, torch) for python, torch, _ in rows] == [
        (python, torch) for python, torches in ast.literal_eval(cells).items() for torch in torches
    ]
    assert all(re.match(r'(green|red|partly): |not tried$', result) for *_, result in rows)


@pytest.mark.parametrize('path', SCRIPTS, ids=lambda path: path.stem)
def test_a_python_too_old_can_read_the_scripts(path):
    ast.parse(path.read_text(), feature_version=(3, 8))
    assert path.read_text().count('\n') <= 300


@pytest.mark.parametrize('variable', ['VIRTUAL_ENV', 'CONDA_PREFIX'])
@pytest.mark.parametrize('content', [None, 'echo /usr', 'exit 127'])
def test_an_active_environment_without_its_own_python_is_refused(
    script, executable, tmp_path, monkeypatch, capsys, variable, content
):
    prefix = tmp_path / 'env'
    if content:
        executable(prefix / 'bin' / 'python', content)
    monkeypatch.setattr(sys, 'prefix', sys.base_prefix)
    monkeypatch.setenv(variable, str(prefix))
    assert script.main(['--', 'true']) == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 2
    assert str(prefix) in error[0] and variable in error[1]


RETRYING = "WARNING: Retrying (Retry(total=0)) after connection broken by '{}': /simple/torch/\n"
NOT_FOUND = (
    'ERROR: Could not find a version that satisfies the requirement torch==2.13.0 (from versions: {})\n'
    'ERROR: No matching distribution found for torch==2.13.0\n'
)


@pytest.mark.parametrize(
    ('output', 'message'),
    [
        (RETRYING.format("NewConnectionError('Connection refused')") + NOT_FOUND.format('none'), 'No network:'),
        ('pip._vendor.urllib3.exceptions.ReadTimeoutError: Read timed out.\n', 'No network:'),
        (NOT_FOUND.format('none'), 'No network: pip does not reach its package index, or the index lacks'),
        (
            NOT_FOUND.format('2.12.0'),
            'pip failed: ERROR: Could not find a version that satisfies the requirement torch==2.13.0',
        ),
        ('ERROR: Could not install: [Errno 28] No space left on device\n', 'The disk is full'),
        ('Collecting pytest-timeout\nERROR: Cannot install a and b\n', 'pip failed: ERROR: Cannot install a and b'),
        ('', 'pip failed: no reason given'),
    ],
)
def test_what_pip_says_becomes_two_lines(steps, output, message):
    error = steps.pip_failure(output, Path('pip.log'))
    assert len(error.args) == 2
    assert error.args[0].startswith(message)
    assert 'pip.log' in error.args[1]


def test_without_network_the_message_is_short_and_the_venv_is_kept(script, executable, tmp_path):
    root = tmp_path / 'checkout'
    (root / 'tools').mkdir(parents=True)
    for path in SCRIPTS:
        shutil.copy(path, root / 'tools')
    shutil.copytree(ROOT / 'requirements', root / 'requirements')
    compilers = executable(tmp_path / 'bin' / 'c++').parent
    env = {name: value for name, value in os.environ.items() if not name.startswith('PIP_')}
    env.update(XDG_CACHE_HOME=str(tmp_path / 'cache'), PIP_CONFIG_FILE=os.devnull, PIP_RETRIES='0')
    env.update(PIP_INDEX_URL='http://127.0.0.1:9/simple', PATH=f'{compilers}:{os.environ["PATH"]}')
    python = str(Path(sys.base_prefix, 'bin', PYTHON))  # sys._base_executable of Python 3.10 is the environment's
    command = [python, str(root / 'tools' / 'setup_environment.py'), '--', 'echo', 'started']
    for created in (True, False):
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 2, done.stderr
        assert done.stderr.startswith('No network')
        assert 'started' not in done.stdout
        assert ('Creating .venv' in done.stdout) == ('Installing pip' in done.stdout) == created


@pytest.fixture
def created(script, executable, monkeypatch):
    """A .venv that is there; the commands that would create it again."""
    executable(script.VENV / 'bin' / 'python')
    (script.VENV / 'lib' / PYTHON).mkdir(parents=True)
    commands = []
    monkeypatch.setattr(script.steps, 'run', lambda title, command, *_: commands.append(command) or (0, ''))
    return commands


def test_a_venv_is_kept(script, created):
    script.create_venv()
    assert created == []


def test_a_venv_that_was_moved_or_lost_its_python_is_created_again(script, created):
    state = script.VENV / script.STATE
    state.mkdir()
    for prefix, times in ((str(script.VENV), 0), ('/elsewhere/.venv', 1)):  # programs in bin name the old folder
        (state / 'done.json').write_text(json.dumps({'prefix': prefix}))
        script.create_venv()
        assert len(created) == times
    (script.VENV / 'bin' / 'python').unlink()
    script.create_venv()
    assert created[1] == [sys.executable, '-m', 'venv', '--without-pip', '--clear', str(script.VENV)]


def test_a_venv_of_another_python_is_not_removed(script, created, monkeypatch):
    (script.VENV / 'lib' / PYTHON).rename(script.VENV / 'lib' / 'python3.99')
    script.create_venv()  # PYTHON chooses none: the one that is there will do
    monkeypatch.setenv('PYTHON', PYTHON)
    with pytest.raises(script.SetupError, match=f'another Python than {PYTHON}'):
        script.create_venv()
    assert created == []


class Machine:
    """An environment whose pip only keeps a record; versions are what ``installed`` says."""

    def __init__(self, script, prefix: Path, monkeypatch) -> None:
        self.script, self.steps, self.prefix = script, script.steps, prefix
        self.calls, self.started, self.origins = [], [], {}
        self.installed = {'pip': '26.0'}
        prefix.mkdir()
        monkeypatch.setattr(sys, 'prefix', str(prefix))
        monkeypatch.setattr(script, 'find_environment', lambda: prefix)
        monkeypatch.setattr(script.setup_mmcv, 'check_compiler', lambda: None)
        monkeypatch.setattr(script.steps, 'version', lambda name: self.installed.get(name, ''))
        monkeypatch.setattr(script.steps, 'direct_url', lambda name: self.origins.get(name, {}))
        monkeypatch.setattr(script.setup_mmcv, 'install_mmcv', lambda prefix: self.calls.append(['mmcv']))
        monkeypatch.setattr(script.steps, 'run', self.run)
        monkeypatch.setattr(script, 'run_command', lambda prefix, command: self.started.append(command))

    def run(self, title, command, log):
        self.calls.append(command[command.index('-c') + 2 :])
        if self.lines('torch')[0] in self.calls[-1]:
            self.installed['torch'] = '2.13.0+cpu'
        return 0, ''

    def make(self, *command: str) -> int:
        self.calls.clear()
        return self.script.main(['--', *command] if command else [])

    def lines(self, *names: str) -> list[str]:
        return [line for name in names for line in self.steps.requirements(name).values()]

    def constraints(self) -> list[str]:
        return (self.prefix / self.script.STATE / 'constraints.txt').read_text().splitlines()


@pytest.fixture
def machine(script, tmp_path, monkeypatch):
    return Machine(script, tmp_path / 'env', monkeypatch)


def test_torch_comes_first_and_mmcv_after_all_that_can_fail_early(machine):
    assert machine.make('python', 'tools/demo.py') == 0
    packages = machine.lines('base', 'seg', 'det', 'mim', 'export', 'app', 'video', 'tests', 'lint')
    assert {'mmengine==0.10.7', 'mmsegmentation==1.2.2', 'mmdet==3.3.0'} < {*packages}
    assert machine.calls[:3] == [machine.lines('build', 'torch'), packages, ['mmcv']]
    assert machine.calls[3:] == [['openmim==0.3.9', '--no-deps', '--no-build-isolation', '--editable', str(ROOT)]]
    assert machine.started == [['python', 'tools/demo.py']]
    assert machine.constraints() == ['torch==2.13.0+cpu']


def test_a_second_command_sets_nothing_up_and_make_setup_always_does(machine):
    machine.make('true')
    assert machine.make('true') == 0
    assert machine.calls == []
    assert machine.started == [['true'], ['true']]
    assert machine.make() == 0
    assert ['mmcv'] in machine.calls


@pytest.mark.parametrize('package', ['torch', 'mmcv', 'mmengine', 'setuptools', 'regex', 'mmtwins'])
def test_a_changed_package_is_set_up_again(machine, package):
    machine.make('true')
    machine.installed[package] = '1.9.9'
    machine.make('true')
    assert ['mmcv'] in machine.calls


@pytest.mark.parametrize('content', ['', '[]', '{"prefix": "/env"}', '{"prefix": {}, "chec'])
def test_a_record_that_makes_no_sense_is_not_trusted(machine, content):
    machine.make('true')
    (machine.prefix / machine.script.STATE / 'done.json').write_text(content)
    assert machine.make('true') == 0
    assert ['mmcv'] in machine.calls


def test_an_interrupted_set_up_is_done_again(machine, monkeypatch, capsys):
    def interrupt(prefix):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(machine.script.setup_mmcv, 'install_mmcv', interrupt)
        assert machine.make('true') == 130
    assert machine.started == []
    assert 'Traceback' not in capsys.readouterr().err
    assert (machine.prefix / machine.script.STATE / 'unfinished').exists()
    assert machine.make('true') == 0
    assert ['mmcv'] in machine.calls
    assert not (machine.prefix / machine.script.STATE / 'unfinished').exists()


@pytest.mark.parametrize(
    ('installed', 'constraints'),
    [
        ({'torch': '2.5.1+cu121', 'numpy': '1.26.4'}, ['torch==2.5.1+cu121', 'numpy==1.26.4']),
        ({'torch': '2.4.0', 'torchvision': '0.19.0'}, ['torch==2.4.0', 'torchvision==0.19.0']),
        ({'torch': '2.2.2'}, ['torch==2.2.2', 'numpy<2']),
    ],
)
def test_a_torch_that_is_there_is_kept(machine, installed, constraints):
    machine.installed.update(installed)
    assert machine.make('true') == 0
    assert machine.calls[0] == machine.lines('build')
    assert machine.constraints() == constraints


@pytest.mark.parametrize(
    ('origin', 'kept'),
    [({}, True), ({'dir_info': {}}, True), ({'archive_info': {}}, True), ({'dir_info': {'editable': True}}, False)],
)
def test_a_copy_of_mmtwins_is_kept(machine, origin, kept):
    machine.installed['mmtwins'], machine.origins['mmtwins'] = '0.1.0', origin
    machine.make()
    assert (machine.calls[-1][-2:] == ['--editable', str(ROOT)]) == (not kept)


def test_packages_cut_off_by_a_kill_are_forgotten(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script.sysconfig, 'get_path', lambda name: str(tmp_path))
    old, whole, cut_off = (tmp_path / f'{name}-1.0.dist-info' for name in ('old', 'whole', 'cut_off'))
    marker = tmp_path / 'unfinished'
    for folder in (old, whole, cut_off):
        folder.mkdir()
        (folder / 'METADATA').touch()
    (whole / 'INSTALLER').touch()
    os.utime(old, (0, 0))  # made by something else than pip, long before
    script.forget_cut_off_packages(marker)
    assert marker.exists()
    assert cut_off.exists()  # no set-up was cut off so far
    script.forget_cut_off_packages(marker)
    assert (old.exists(), whole.exists(), cut_off.exists()) == (True, True, False)


def test_a_step_keeps_its_log_and_shows_how_far_a_build_is(steps, tmp_path, capsys):
    code = 'for i in range(1, 22): print(f"[{i}/21] c++")\nexit(3)'
    assert steps.run('Step', [sys.executable, '-c', code], tmp_path / 'log')[0] == 3
    assert (tmp_path / 'log').read_text().count('c++') == 21
    assert capsys.readouterr().out.split() == ['Step', '[10/21]', '[20/21]']


def test_a_second_set_up_waits_until_the_first_and_what_it_runs_have_ended(tmp_path):
    env = {**os.environ, 'XDG_CACHE_HOME': str(tmp_path / 'cache')}
    start = f'{IMPORT}sys.stdout.reconfigure(line_buffering=True)\nwith s.steps.lock():\n    '
    run = 's.steps.run("Step", ["sleep", "600"], s.steps.CACHE / "log")'  # it inherits the lock
    pipes = {'env': env, 'stdout': subprocess.PIPE, 'text': True}
    first = subprocess.Popen([sys.executable, '-c', start + run], **pipes)
    assert first.stdout.readline() == 'Step\n'
    second = subprocess.Popen([sys.executable, '-c', f'{start}print("in")'], **pipes)
    assert second.stdout.readline().startswith('Waiting')
    first.send_signal(signal.SIGKILL)
    assert second.communicate(timeout=60)[0] == 'in\n'
    first.communicate()


def test_the_command_runs_with_the_environment_and_the_checkout_first(executable, tmp_path):
    executable(tmp_path / 'bin' / 'python', 'echo "$PYTHONPATH" "$@"')
    code = f'{IMPORT}from pathlib import Path\ns.run_command(Path({str(tmp_path)!r}), ["python", "-m", "pytest"])\n'
    env = {**os.environ, 'PYTHONPATH': '/mine'}
    done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert done.stdout == f'{ROOT}:/mine -m pytest\n'


def test_a_compiler_is_asked_for_unless_a_wheel_is_in_the_cache(script, setup_mmcv, machine, monkeypatch, capsys):
    def refuse():
        raise script.SetupError('no compiler', 'install one')

    monkeypatch.setattr(setup_mmcv, 'check_compiler', refuse)
    assert machine.make('true') == 1
    assert machine.calls == []
    assert capsys.readouterr().err == 'no compiler\ninstall one\n'
    wheel = script.steps.CACHE / setup_mmcv.wheel_key('2.13.0+cpu', 'cpu') / 'mmcv-2.1.0-any.whl'
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    assert machine.make('true') == 0


FORKS = ['onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation', 'onedl-mmdetection', 'onedl-mim']


def test_the_forks_take_the_places_of_openmmlabs_packages(machine, monkeypatch):
    own = {name: machine.lines(name) for name in ('base', 'seg', 'det', 'openmim')}
    monkeypatch.setenv('STACK', 'onedl')
    assert machine.make() == 0
    asked = {line.partition('==')[0] for call in machine.calls for line in call}
    assert {*FORKS} - {'onedl-mmcv'} <= asked  # mmcv is built
    assert not {'mmengine', 'mmsegmentation', 'mmdet', 'openmim'} & asked
    for name, lines in own.items():  # all else is the same
        assert len(machine.lines(name)) == len(lines)
        assert [line for line in lines if line in machine.lines(name)] == [
            line for line in lines if not line.startswith(('mmengine', 'mmseg', 'mmdet', 'openmim'))
        ]
    assert machine.steps.mmcv_pin()[0] == 'onedl-mmcv'
    assert '/onedl-mmcv-' in f'/{machine.script.setup_mmcv.wheel_key("2.15.0", "cpu")}'


def test_the_stack_of_an_environment_is_remembered(machine, monkeypatch):
    monkeypatch.setenv('STACK', 'onedl')
    machine.make()
    machine.installed['onedl-mmengine'] = '0.10.12'
    machine.make()
    monkeypatch.delenv('STACK')
    assert machine.make('true') == 0
    assert machine.calls == []
    assert machine.steps.stack() == 'onedl'


@pytest.mark.parametrize(('named', 'there'), [('onedl', 'mmcv'), ('openmmlab', 'onedl-mmcv'), ('', 'both')])
def test_two_stacks_in_one_environment_are_refused(machine, monkeypatch, capsys, named, there):
    if named:
        monkeypatch.setenv('STACK', named)
    machine.installed.update(dict.fromkeys(['mmcv', 'onedl-mmcv'] if there == 'both' else [there], '2.1.0'))
    assert machine.make('true') == 1
    assert (machine.calls, machine.started) == ([], [])
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 2
    assert f'{"mmcv" if there == "both" else there} 2.1.0' in error[0] and 'the same import names' in error[0]
    assert 'pip uninstall' in error[1]


def test_a_wrong_stack_is_refused_before_anything_is_done(script, monkeypatch, capsys):
    monkeypatch.setenv('STACK', 'OneDL')
    monkeypatch.setattr(script, 'find_environment', lambda: pytest.fail('it sets up'))
    assert script.main([]) == 1
    assert capsys.readouterr().err.splitlines() == ['There is no STACK=OneDL.', 'STACK is openmmlab or onedl.']
