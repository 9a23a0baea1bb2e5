"""The set-up script: what it refuses, what it keeps, what it never does twice. No network."""

import ast
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / 'tools' / 'setup_environment.py'
PYTHON = f'python3.{sys.version_info[1]}'
IMPORT = f'import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import setup_environment as s\n'
VARIABLES = ('VIRTUAL_ENV', 'CONDA_PREFIX', 'PYTHON', 'CXX', 'FORCE_CUDA', 'TORCH_CUDA_ARCH_LIST', 'MAX_JOBS')


@pytest.fixture
def script(tmp_path, monkeypatch):
    """The script as a module, with .venv and the cache in a temporary folder and no variable in its way."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    spec = importlib.util.spec_from_file_location('setup_environment', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, 'VENV', tmp_path / 'checkout' / '.venv')
    monkeypatch.setattr(module, 'CACHE', tmp_path / 'cache')
    return module


def executable(path: Path, text: str = 'exit 0') -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n{text}\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ('options', 'code', 'part'), [(['--help'], 0, 'COMMAND'), (['--nope'], 2, '--nope'), (['x'], 2, 'x')]
)
def test_options_are_explained_or_refused_before_anything_is_done(script, monkeypatch, capsys, options, code, part):
    monkeypatch.setattr(script, 'find_environment', lambda: pytest.fail('it sets up'))
    with pytest.raises(SystemExit) as ended:
        script.main([*options, '--', 'python', '--version'])
    assert ended.value.code == code
    assert part in ''.join(capsys.readouterr())


@pytest.mark.parametrize('version', [(3, 9, 18), (3, 13, 0)])
def test_an_unsuitable_python_is_refused(script, monkeypatch, version):
    monkeypatch.setattr(sys, 'version_info', version)
    with pytest.raises(script.SetupError) as error:
        script.check_python()
    assert 'mmtwins needs 3.10, 3.11 or 3.12' in error.value.args[0]
    assert 'make demo PYTHON=python3.11' in error.value.args[1]


def test_the_supported_pythons_are_those_of_the_package(script, monkeypatch):
    assert "python_requires='>=3.10,<3.13'" in (ROOT / 'setup.py').read_text()
    for minor in (10, 11, 12):
        monkeypatch.setattr(sys, 'version_info', (3, minor, 0))
        script.check_python()


def test_a_python_too_old_can_read_the_script():
    ast.parse(SCRIPT.read_text(), feature_version=(3, 8))


def test_a_missing_compiler_or_header_is_named(script, tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(script.SetupError, match=r'compiler \(c\+\+\)'):
        script.check_compiler()
    monkeypatch.setenv('CXX', '/nowhere/clang++ -O2')
    with pytest.raises(script.SetupError, match=r'/nowhere/clang\+\+'):
        script.check_compiler()
    monkeypatch.setenv('CXX', f'{executable(tmp_path / "clang++")} -O2')
    monkeypatch.setattr(script.sysconfig, 'get_path', lambda _: str(tmp_path))
    with pytest.raises(script.SetupError, match=r'Python\.h') as error:
        script.check_compiler()
    assert error.value.args[1] == f'sudo apt-get install {PYTHON}-dev'


@pytest.mark.parametrize('variable', ['VIRTUAL_ENV', 'CONDA_PREFIX'])
@pytest.mark.parametrize('content', [None, 'echo /usr', 'exit 127'])
def test_an_active_environment_without_its_own_python_is_refused(
    script, tmp_path, monkeypatch, capsys, variable, content
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
def test_what_pip_says_becomes_two_lines(script, output, message):
    error = script.pip_failure(output, Path('pip.log'))
    assert len(error.args) == 2
    assert error.args[0].startswith(message)
    assert 'pip.log' in error.args[1]


def test_without_network_the_message_is_short_and_the_venv_is_kept(tmp_path):
    root = tmp_path / 'checkout'
    (root / 'tools').mkdir(parents=True)
    shutil.copy(SCRIPT, root / 'tools')
    shutil.copytree(ROOT / 'requirements', root / 'requirements')
    compilers = executable(tmp_path / 'bin' / 'c++').parent
    env = {name: value for name, value in os.environ.items() if name not in VARIABLES and not name.startswith('PIP_')}
    env.update(XDG_CACHE_HOME=str(tmp_path / 'cache'), PIP_CONFIG_FILE=os.devnull, PIP_RETRIES='0')
    env.update(PIP_INDEX_URL='http://127.0.0.1:9/simple', PATH=f'{compilers}:{os.environ["PATH"]}')
    command = [sys._base_executable, str(root / 'tools' / 'setup_environment.py'), '--', 'echo', 'started']
    for created in (True, False):
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 2, done.stderr
        assert done.stderr.startswith('No network')
        assert 'started' not in done.stdout
        assert ('Creating .venv' in done.stdout) == ('Installing pip' in done.stdout) == created


@pytest.fixture
def created(script, monkeypatch):
    """A .venv that is there; the commands that would create it again."""
    executable(script.VENV / 'bin' / 'python')
    (script.VENV / 'lib' / PYTHON).mkdir(parents=True)
    commands = []
    monkeypatch.setattr(script, 'run', lambda title, command, *_: commands.append(command) or (0, ''))
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
        self.script, self.prefix, self.calls, self.started, self.origins = script, prefix, [], [], {}
        self.installed = {'pip': '26.0'}
        prefix.mkdir()
        monkeypatch.setattr(sys, 'prefix', str(prefix))
        monkeypatch.setattr(script, 'find_environment', lambda: prefix)
        monkeypatch.setattr(script, 'check_compiler', lambda: None)
        monkeypatch.setattr(script, 'version', lambda name: self.installed.get(name, ''))
        monkeypatch.setattr(script, 'direct_url', lambda name: self.origins.get(name, {}))
        monkeypatch.setattr(script, 'install_mmcv', lambda prefix: self.calls.append(['mmcv']))
        monkeypatch.setattr(script, 'run', self.run)
        monkeypatch.setattr(script, 'run_command', lambda prefix, command: self.started.append(command))

    def run(self, title, command, log):
        self.calls.append([Path(word).name for before, word in pairwise(command) if before in ('-r', '--editable')])
        if 'torch.txt' in self.calls[-1]:
            self.installed['torch'] = '2.13.0+cpu'
        return 0, ''

    def make(self, *command: str) -> int:
        self.calls.clear()
        return self.script.main(['--', *command] if command else [])

    def constraints(self) -> list[str]:
        return (self.prefix / self.script.STATE / 'constraints.txt').read_text().splitlines()


@pytest.fixture
def machine(script, tmp_path, monkeypatch):
    return Machine(script, tmp_path / 'env', monkeypatch)


def test_torch_comes_first_and_mmcv_after_all_that_can_fail_early(machine):
    assert machine.make('python', 'tools/demo.py') == 0
    packages = ['base', 'seg', 'det', 'mim', 'export', 'app', 'video', 'tests', 'lint']
    assert machine.calls[:3] == [['build.txt', 'torch.txt'], [f'{name}.txt' for name in packages], ['mmcv']]
    assert machine.calls[3:] == [['openmim.txt', ROOT.name]]
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
    machine.installed[package] = '9.9'
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
        patch.setattr(machine.script, 'install_mmcv', interrupt)
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
    assert machine.calls[0] == ['build.txt']
    assert machine.constraints() == constraints


@pytest.mark.parametrize(
    ('origin', 'kept'),
    [({}, True), ({'dir_info': {}}, True), ({'archive_info': {}}, True), ({'dir_info': {'editable': True}}, False)],
)
def test_a_copy_of_mmtwins_is_kept(machine, origin, kept):
    machine.installed['mmtwins'], machine.origins['mmtwins'] = '0.1.0', origin
    machine.make()
    assert machine.calls[-1] == ['openmim.txt'] + ([] if kept else [ROOT.name])


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


def test_a_step_keeps_its_log_and_shows_how_far_a_build_is(script, tmp_path, capsys):
    code = 'for i in range(1, 22): print(f"[{i}/21] c++")\nexit(3)'
    assert script.run('Step', [sys.executable, '-c', code], tmp_path / 'log')[0] == 3
    assert (tmp_path / 'log').read_text().count('c++') == 21
    assert capsys.readouterr().out.split() == ['Step', '[10/21]', '[20/21]']


def test_a_second_set_up_waits_until_the_first_and_what_it_runs_have_ended(tmp_path):
    env = {**os.environ, 'XDG_CACHE_HOME': str(tmp_path / 'cache')}
    start = f'{IMPORT}sys.stdout.reconfigure(line_buffering=True)\nwith s.lock():\n    '
    run = 's.run("Step", ["sleep", "600"], s.CACHE / "log")'  # it inherits the lock
    pipes = {'env': env, 'stdout': subprocess.PIPE, 'text': True}
    first = subprocess.Popen([sys.executable, '-c', start + run], **pipes)
    assert first.stdout.readline() == 'Step\n'
    second = subprocess.Popen([sys.executable, '-c', f'{start}print("in")'], **pipes)
    assert second.stdout.readline().startswith('Waiting')
    first.send_signal(signal.SIGKILL)
    assert second.communicate(timeout=60)[0] == 'in\n'
    first.communicate()


def test_the_command_runs_with_the_environment_and_the_checkout_first(tmp_path):
    executable(tmp_path / 'bin' / 'python', 'echo "$PYTHONPATH" "$@"')
    code = f'{IMPORT}from pathlib import Path\ns.run_command(Path({str(tmp_path)!r}), ["python", "-m", "pytest"])\n'
    env = {**os.environ, 'PYTHONPATH': '/mine'}
    done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert done.stdout == f'{ROOT}:/mine -m pytest\n'


class Mmcv:
    """A machine with CPU torch on which mmcv builds at once; its wheel holds the word that is then installed."""

    def __init__(self, script, tmp_path, monkeypatch) -> None:
        self.builds, self.installed, self.works, self.failure = 0, '', {'built'}, None
        self.wheel = script.CACHE / script.wheel_key('2.13.0+cpu', 'cpu') / 'mmcv-2.1.0-cp3-linux.whl'
        self.origin = self.wheel
        monkeypatch.setattr(script, 'capture', lambda *_: (0, '["2.13.0+cpu", null, null, []]'))
        monkeypatch.setattr(script, 'check_compiler', lambda: None)
        monkeypatch.setattr(script, 'run', self.run)
        monkeypatch.setattr(script, 'pip', self.pip)
        monkeypatch.setattr(script, 'version', lambda name: '2.1.0' if self.installed else '')
        monkeypatch.setattr(script, 'direct_url', lambda name: {'url': self.origin.as_uri()} if self.origin else {})
        monkeypatch.setattr(script, 'mmcv_failure', lambda: '' if self.installed in self.works else 'undefined symbol')
        self.install = lambda: script.install_mmcv(tmp_path)

    def run(self, title, command, log, **variables):
        assert variables['MMCV_WITH_OPS'] == '1'
        self.builds += 1
        log.write_text('all of it')
        if self.failure is KeyboardInterrupt:
            raise KeyboardInterrupt
        if self.failure:
            return 1, self.failure
        (Path(command[command.index('--wheel-dir') + 1]) / self.wheel.name).write_text('built')
        return 0, 'warning: no error: here\n'

    def pip(self, prefix, title, *arguments):
        self.installed = Path(arguments[-1]).read_text()


@pytest.fixture
def mmcv(script, tmp_path, monkeypatch):
    return Mmcv(script, tmp_path, monkeypatch)


def test_mmcv_is_built_once(mmcv):
    mmcv.install()
    assert (mmcv.builds, mmcv.installed, mmcv.wheel.read_text()) == (1, 'built', 'built')
    assert {path.name for path in mmcv.wheel.parent.iterdir()} == {'build.log', mmcv.wheel.name}
    mmcv.install()  # it is installed
    mmcv.installed = ''
    mmcv.install()  # it is in the cache
    assert (mmcv.builds, mmcv.installed) == (1, 'built')


def test_a_wheel_that_does_not_work_is_named(script, mmcv):
    mmcv.wheel.parent.mkdir(parents=True)
    mmcv.wheel.write_text('broken')
    with pytest.raises(script.SetupError, match='undefined symbol') as error:
        mmcv.install()
    assert str(mmcv.wheel) in error.value.args[0]


def test_an_mmcv_that_somebody_else_built_is_kept_if_it_works(mmcv):
    mmcv.origin, mmcv.installed = None, 'theirs'
    mmcv.works.add('theirs')
    mmcv.install()
    assert (mmcv.builds, mmcv.installed) == (0, 'theirs')
    mmcv.works.remove('theirs')
    mmcv.install()
    assert (mmcv.builds, mmcv.installed) == (1, 'built')


@pytest.mark.parametrize(
    ('torch', 'operators', 'builds'),
    [('2.12.0+cpu', 'cpu', 1), ('2.13.0+cpu', 'cu13.0-9.0', 0), ('2.13.0+cpu', 'cpu', 0)],
)
def test_ours_is_replaced_if_it_is_for_another_torch(script, mmcv, torch, operators, builds):
    mmcv.origin = Path('/home/.cache/mmtwins') / script.wheel_key(torch, operators) / mmcv.wheel.name
    mmcv.installed = 'built'
    mmcv.install()
    assert mmcv.builds == builds


@pytest.mark.parametrize(
    ('output', 'message'),
    [
        ('In file a.cpp\na.cpp:3: error: no such type\nninja: build stopped\n', 'a.cpp:3: error: no such type'),
        ('c++: fatal error: Killed signal terminated program cc1plus\n', 'Killed'),
        (RETRYING.format('NewConnectionError()'), 'No network'),
        ('[Errno 28] No space left on device', 'The disk is full'),
    ],
)
def test_a_failed_build_names_its_log_and_error_and_leaves_no_wheel(script, mmcv, output, message):
    mmcv.failure = output
    with pytest.raises(script.SetupError, match=message) as error:
        mmcv.install()
    assert str(mmcv.wheel.parent / 'build.log') in error.value.args[1]
    assert [path.name for path in mmcv.wheel.parent.iterdir()] == ['build.log']


def test_an_interrupted_build_leaves_no_wheel_and_is_done_again(mmcv):
    mmcv.failure = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        mmcv.install()
    assert [path.name for path in mmcv.wheel.parent.iterdir()] == ['build.log']
    leftover = mmcv.wheel.parent / 'build' / mmcv.wheel.name  # of a kill -9
    leftover.parent.mkdir()
    leftover.write_text('half')
    mmcv.failure = None
    mmcv.install()
    assert mmcv.wheel.read_text() == 'built'


def test_the_cache_is_keyed_by_python_torch_and_operators(script, monkeypatch):
    key = script.wheel_key('2.13.0+cpu', 'cpu')
    assert key.startswith(f'mmcv-2.1.0-cp3{sys.version_info[1]}-')
    assert key.endswith('-torch-2.13.0+cpu-cpu')
    monkeypatch.setattr(sys, 'version_info', (3, 99, 0))
    assert '-cp399-' in script.wheel_key('2.13.0+cpu', 'cpu')


def test_a_compiler_is_asked_for_unless_a_wheel_is_in_the_cache(script, machine, monkeypatch, capsys):
    def refuse():
        raise script.SetupError('no compiler', 'install one')

    monkeypatch.setattr(script, 'check_compiler', refuse)
    assert machine.make('true') == 1
    assert machine.calls == []
    assert capsys.readouterr().err == 'no compiler\ninstall one\n'
    wheel = script.CACHE / script.wheel_key('2.13.0+cpu', 'cpu') / 'mmcv-2.1.0-any.whl'
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    assert machine.make('true') == 0


@pytest.mark.parametrize(
    ('cuda', 'release', 'gpus', 'key'),
    [
        (None, '13.0', [], 'cpu'),
        ('13.0', None, ['9.0'], 'cpu'),
        ('13.0', '12.4', ['9.0'], 'cpu'),
        ('13.0', '13.2', ['9.0'], 'cu13.2-9.0'),
        ('12.1', '12.4', ['8.0', '9.0'], 'cu12.4-8.0_9.0'),
        ('13.0', '13.0', [], 'cpu'),
    ],
)
def test_cuda_operators_are_built_where_nvcc_fits_torch(script, tmp_path, capsys, cuda, release, gpus, key):
    if release:
        executable(tmp_path / 'bin' / 'nvcc', f'echo "Cuda compilation tools, release {release}, V{release}.48"')
    operators, variables = script.choose_operators(cuda, str(tmp_path), gpus)
    assert operators == key
    assert variables['FORCE_CUDA'] == str(int(key != 'cpu'))
    assert variables.get('TORCH_CUDA_ARCH_LIST') == (';'.join(gpus) if key != 'cpu' else None)
    assert variables.get('CUDA_VISIBLE_DEVICES') == ('' if key == 'cpu' else None)  # mmcv builds for any GPU it sees
    assert ('CPU operators only' in capsys.readouterr().out) == (bool(cuda) and key == 'cpu')
