"""The set-up script: what it refuses and how it says so, what it keeps, what it never does twice. No network."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / 'tools' / 'setup_environment.py'
BASE_PYTHON = getattr(sys, '_base_executable', sys.executable)
IMPORT = f'import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import setup_environment as s\n'
PYTHON = f'python3.{sys.version_info[1]}'


@pytest.fixture
def script(tmp_path, monkeypatch):
    """The script as a module, with .venv and the cache in a temporary folder and no environment variable in its way."""
    for variable in ('VIRTUAL_ENV', 'CONDA_PREFIX', 'PYTHON', 'CXX', 'FORCE_CUDA', 'TORCH_CUDA_ARCH_LIST', 'MAX_JOBS'):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    spec = importlib.util.spec_from_file_location('setup_environment', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, 'VENV', tmp_path / 'checkout' / '.venv')
    monkeypatch.setattr(module.signal, 'signal', lambda *_: None)
    return module


@pytest.fixture
def checkout(tmp_path):
    """A checkout that holds all that the script reads."""
    root = tmp_path / 'checkout'
    (root / 'tools').mkdir(parents=True)
    shutil.copy(SCRIPT, root / 'tools')
    shutil.copytree(ROOT / 'requirements', root / 'requirements')
    return root


def run_script(checkout: Path, patch: str = '', **variables: str) -> subprocess.CompletedProcess:
    """Run the script as a user without an active environment does; `patch` changes the machine that Python sees."""
    site = checkout / 'patched'
    site.mkdir(exist_ok=True)
    (site / 'sitecustomize.py').write_text(patch)
    env = {key: value for key, value in os.environ.items() if not key.startswith(('PIP_', 'CONDA', 'VIRTUAL_ENV'))}
    env = {**env, 'XDG_CACHE_HOME': str(checkout / 'cache'), 'PIP_CONFIG_FILE': os.devnull, 'PYTHONPATH': str(site)}
    for variable in ('PYTHON', 'CXX'):
        env.pop(variable, None)
    command = [BASE_PYTHON, str(checkout / 'tools' / 'setup_environment.py'), '--', 'python', '-c', 'print("started")']
    return subprocess.run(command, cwd=checkout, env={**env, **variables}, capture_output=True, text=True, timeout=120)


def assert_refused(done: subprocess.CompletedProcess, *parts: str) -> None:
    """Two lines that name what is wrong and what to do, and nothing done."""
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 2, done.stderr
    assert 'started' not in done.stdout
    for part in parts:
        assert part in done.stderr


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n{text}\n')
    path.chmod(0o755)
    return path


NO_HEADERS = "import sysconfig; sysconfig.get_path = lambda *_, **__: '/nowhere'\n"
NO_VENV = (
    'import importlib.util; find = importlib.util.find_spec\n'
    "importlib.util.find_spec = lambda name, *_: None if name == 'ensurepip' else find(name, *_)\n"
)
NO_LIBGL = (
    'import ctypes\nload = ctypes.CDLL\ndef fail(name, *args, **kwargs):\n'
    "    if name == 'libGL.so.1': raise OSError(name)\n    return load(name, *args, **kwargs)\nctypes.CDLL = fail\n"
)


@pytest.mark.parametrize(
    ('patch', 'what', 'command'),
    [
        (NO_HEADERS, 'Python.h', f'sudo apt-get install {PYTHON}-dev'),
        (NO_VENV, 'venv module', f'sudo apt-get install {PYTHON}-venv'),
        (NO_LIBGL, 'libGL.so.1', 'sudo apt-get install libgl1'),
        (NO_HEADERS + NO_VENV, 'venv module', f'sudo apt-get install {PYTHON}-venv {PYTHON}-dev'),
    ],
)
def test_a_missing_part_of_the_system_is_named_before_anything_is_made(checkout, patch, what, command):
    compilers = executable(checkout / 'bin' / 'c++', 'exit 0').parent
    done = run_script(checkout, patch, PATH=f'{compilers}:{os.environ["PATH"]}')
    assert_refused(done, what)
    assert done.stderr.rstrip().endswith(command)
    assert not (checkout / '.venv').exists()


def test_a_missing_compiler_is_named(checkout):
    (checkout / 'bin').mkdir()
    assert_refused(run_script(checkout, PATH=str(checkout / 'bin')), 'C++ compiler', 'sudo apt-get install g++')
    assert_refused(run_script(checkout, CXX='/nowhere/clang++'), '/nowhere/clang++', 'sudo apt-get install g++')
    assert not (checkout / '.venv').exists()


def test_too_little_disk_space_is_refused(checkout):
    executable(checkout / 'bin' / 'c++', 'exit 0')
    patch = 'import shutil; shutil.disk_usage = lambda path: shutil._ntuple_diskusage(10**12, 0, 10**9)'
    done = run_script(checkout, patch, PATH=f'{checkout / "bin"}:{os.environ["PATH"]}')
    assert_refused(done, 'disk', f'{checkout / ".venv"} needs 4.0 GB, 1.0 GB are free')
    assert not (checkout / '.venv').exists()


@pytest.mark.parametrize('version', ['(3, 9, 18)', '(3, 13, 0)'])
def test_an_unsuitable_python_names_a_suitable_one_on_path(checkout, version):
    patch = f'import sys; sys.version_info = {version}'
    executable(checkout / 'bin' / 'python3.11', 'exit 127')  # a pyenv shim of a version that is not chosen
    found = executable(checkout / 'bin' / 'python3.12', 'exit 0').parent
    assert_refused(run_script(checkout, patch, PATH=str(found)), '3.10, 3.11 or 3.12', 'make demo PYTHON=python3.12')
    (found / 'python3.12').unlink()
    assert_refused(run_script(checkout, patch, PATH=str(found)), 'sudo apt-get install python3.11 python3.11-venv')


def test_a_python_too_old_for_the_language_is_still_told(checkout):
    """No walrus, no `X | Y` and the like: the script compiles for Python 3.6."""
    import ast

    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))


@pytest.mark.parametrize('variable', ['VIRTUAL_ENV', 'CONDA_PREFIX'])
def test_an_active_environment_that_is_gone_is_named(checkout, variable):
    assert_refused(run_script(checkout, **{variable: '/nowhere/env'}), '/nowhere/env', f'unset {variable}')


def test_without_network_a_half_made_venv_is_made_anew_and_the_message_is_short(checkout, tmp_path):
    compilers = executable(checkout / 'bin' / 'c++', 'exit 0').parent
    subprocess.run([BASE_PYTHON, '-m', 'venv', '--without-pip', str(checkout / '.venv')], check=True)
    leftover = checkout / '.venv' / 'lib' / PYTHON / 'site-packages' / 'pip' / '__init__.py'
    leftover.parent.mkdir(parents=True)
    leftover.write_text('raise SystemExit("cut off")')
    closed = 'http://127.0.0.1:9/simple'
    path = f'{compilers}:{os.environ["PATH"]}'
    done = run_script(checkout, PIP_INDEX_URL=closed, PIP_RETRIES='0', PATH=path)
    assert_refused(done, 'No network', 'pip config list')
    assert 'Creating .venv' in done.stdout
    assert 'cut off' not in leftover.read_text()

    again = run_script(checkout, PIP_NO_INDEX='1', PATH=path)
    assert_refused(again, 'No network, or a package index without torch==2.13.0')
    assert 'Creating .venv' not in again.stdout  # the one that is there is whole


@pytest.fixture
def venv(script, monkeypatch):
    """A whole .venv, as far as its files tell; `created` holds the commands that would make it anew."""
    executable(script.VENV / 'bin' / 'python', 'exit 0')
    (script.VENV / 'pyvenv.cfg').touch()
    created = []
    for name in ('pip-1.0', 'setuptools-1.0'):
        info = script.VENV / 'lib' / PYTHON / 'site-packages' / f'{name}.dist-info'
        info.mkdir(parents=True)
        (info / 'INSTALLER').touch()
    monkeypatch.setattr(script, 'check_machine', lambda prefix: None)
    monkeypatch.setattr(script, 'run_logged', lambda title, command, *_: created.append(command) or (0, ''))
    return created


def test_a_whole_venv_is_kept(script, venv):
    script.prepare_venv()
    assert venv == []


@pytest.mark.parametrize('lost', ['pyvenv.cfg', 'bin/python', 'pip', 'setuptools'])
def test_a_venv_whose_creation_was_cut_off_is_made_anew(script, venv, lost):
    (
        script.VENV / lost if '.' in lost or '/' in lost else next(script.VENV.glob(f'lib/*/*/{lost}-*/INSTALLER'))
    ).unlink()
    script.prepare_venv()
    assert venv == [[sys.executable, '-m', 'venv', '--clear', str(script.VENV)]]


def test_a_venv_that_somebody_filled_without_pip_is_left_alone(script, venv):
    packages = script.VENV / 'lib' / PYTHON / 'site-packages'
    (packages / 'pip-1.0.dist-info').rename(packages / 'torch-2.13.0.dist-info')
    script.prepare_venv()
    assert venv == []


def test_a_venv_of_another_python_is_not_thrown_away_silently(script, venv, monkeypatch):
    (script.VENV / 'lib' / PYTHON).rename(script.VENV / 'lib' / 'python3.99')
    script.prepare_venv()  # not chosen explicitly: the one that is there will do
    monkeypatch.setenv('PYTHON', 'python3')
    with pytest.raises(script.SetupError, match=r'python3\.99'):
        script.prepare_venv()
    assert venv == []


def test_a_moved_venv_is_made_anew(script, venv):
    """Its programs, mim among them, name the old folder."""
    state = script.VENV / script.STATE
    state.mkdir()
    for prefix, created in ((str(script.VENV), 0), ('/elsewhere/.venv', 1)):
        (state / 'done.json').write_text(json.dumps({'state': {'prefix': prefix}, 'obstacle': ''}))
        script.prepare_venv()
        assert len(venv) == created


# An environment -------------------------------------------------------------------------------------------------------


class Machine:
    """An environment whose pip only keeps a record; versions are what `installed` says."""

    def __init__(self, script, prefix: Path, monkeypatch) -> None:
        self.script, self.prefix, self.calls, self.started = script, prefix, [], []
        self.installed = {'opencv-python': '5.0'}
        prefix.mkdir()
        monkeypatch.setattr(sys, 'prefix', str(prefix))
        monkeypatch.setattr(script, 'find_environment', lambda: prefix)
        monkeypatch.setattr(script, 'check_machine', lambda *_, **__: None)
        monkeypatch.setattr(script, 'version', lambda name: self.installed.get(name, ''))
        monkeypatch.setattr(script, 'direct_url', lambda name: '')
        monkeypatch.setattr(script, 'install_mmcv', lambda prefix: self.calls.append(['mmcv']) or '')
        monkeypatch.setattr(script, 'run_logged', self.run_logged)
        monkeypatch.setattr(script, 'run_command', lambda prefix, command: self.started.append(command))

    def run_logged(self, title, command, log, variables):
        self.calls.append([Path(part).name for part in command if part.endswith('.txt') and 'constraints' not in part])
        if 'torch.txt' in self.calls[-1]:
            self.installed['torch'] = '2.13.0+cpu'
        return 0, ''

    def make(self, *command: str) -> int:
        return self.script.main(['--', *command] if command else [])


@pytest.fixture
def machine(script, tmp_path, monkeypatch):
    return Machine(script, tmp_path / 'env', monkeypatch)


def test_set_up_installs_torch_first_and_mmcv_after_all_that_can_fail_early(machine):
    assert machine.make('python', 'tools/demo.py') == 0
    packages = ['base.txt', 'seg.txt', 'det.txt', 'hub.txt', 'mim.txt', 'tests.txt']
    assert machine.calls == [['torch.txt', 'build.txt'], packages, ['mmcv'], ['openmim.txt']]
    assert machine.started == [['python', 'tools/demo.py']]
    constraints = (machine.prefix / machine.script.STATE / 'constraints.txt').read_text()
    assert constraints.splitlines() == ['torch==2.13.0+cpu']


def test_the_second_run_calls_no_pip(machine):
    machine.make('true')
    machine.calls.clear()
    assert machine.make('true') == 0
    assert machine.make() == 0
    assert machine.calls == []
    assert machine.started == [['true'], ['true']]


@pytest.mark.parametrize('package', ['torch', 'mmcv', 'mmengine', 'setuptools', 'regex'])
def test_a_changed_package_is_set_up_again(machine, package):
    machine.make('true')
    machine.calls.clear()
    machine.installed[package] = '9.9'
    machine.make('true')
    assert ['mmcv'] in machine.calls


@pytest.mark.parametrize('content', ['', '[]', '{"prefix": "/env"}', '{"state": {}, "obsta'])
def test_a_record_that_makes_no_sense_is_not_trusted(machine, content):
    machine.make('true')
    machine.calls.clear()
    (machine.prefix / machine.script.STATE / 'done.json').write_text(content)
    assert machine.make('true') == 0
    assert ['mmcv'] in machine.calls


def test_an_interrupted_set_up_is_not_trusted(machine, monkeypatch, capsys):
    whole = machine.script.install_mmcv

    def interrupt(prefix):
        raise KeyboardInterrupt

    machine.script.install_mmcv = interrupt
    assert machine.make('true') == 130
    assert machine.started == []
    assert 'Traceback' not in capsys.readouterr().err
    machine.script.install_mmcv = whole
    machine.calls.clear()
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
    assert machine.installed['torch'] == installed['torch']
    assert machine.calls[0] == ['build.txt']
    assert not any('torch.txt' in call for call in machine.calls)
    assert (machine.prefix / machine.script.STATE / 'constraints.txt').read_text().splitlines() == constraints


def test_a_torch_too_old_is_refused_and_not_replaced(machine, capsys):
    machine.installed['torch'] = '1.13.1'
    assert machine.make('true') == 1
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 2
    assert 'torch 1.13.1' in error[0]
    assert machine.calls == []


def test_packages_cut_off_by_a_kill_are_forgotten(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script.sysconfig, 'get_path', lambda name: str(tmp_path))
    old, whole, cut_off = (tmp_path / f'{name}-1.0.dist-info' for name in ('old', 'whole', 'cut_off'))
    marker = tmp_path / 'unfinished'
    for folder in (old, whole, cut_off):
        folder.mkdir()
        (folder / 'METADATA').touch()
    (whole / 'INSTALLER').touch()
    os.utime(old, (0, 0))  # made by something else than pip, long before
    script.forget_cut_off_installations(marker)
    assert marker.exists()
    assert cut_off.exists()  # no set-up was cut off so far
    script.forget_cut_off_installations(marker)
    assert (old.exists(), whole.exists(), cut_off.exists()) == (True, True, False)


# pip and other programs -----------------------------------------------------------------------------------------------

RETRYING = "WARNING: Retrying (Retry(total=0)) after connection broken by '{}': /simple/torch/\n"
NOT_FOUND = (
    'ERROR: Could not find a version that satisfies the requirement torch==2.13.0 (from versions: {})\n'
    'ERROR: No matching distribution found for torch==2.13.0\n'
)
NONE_FOUND = NOT_FOUND.format('none')


@pytest.mark.parametrize(
    ('output', 'message'),
    [
        (RETRYING.format("NewConnectionError('Connection refused')") + NONE_FOUND, 'No network:'),
        (RETRYING.format("NameResolutionError('Name or service not known')") + NONE_FOUND, 'No network:'),
        (RETRYING.format('ReadTimeoutError("Read timed out.")') + NONE_FOUND, 'No network:'),
        ('pip._vendor.urllib3.exceptions.ReadTimeoutError: Read timed out.\n', 'No network'),
        (NONE_FOUND, 'No network, or a package index without torch==2.13.0'),
        (NOT_FOUND.format('2.12.0'), 'pip failed: No matching distribution found for torch==2.13.0'),
        ('ERROR: Could not install: [Errno 28] No space left on device\n', 'The disk is full'),
        ('Collecting pytest-timeout\nERROR: Cannot install a and b\n', 'pip failed: Cannot install a and b'),
        ('', 'pip failed: no reason given'),
    ],
)
def test_what_pip_says_becomes_two_lines(script, output, message):
    error = script.pip_failure(output, Path('pip.log'))
    assert len(error.args) == 2
    assert error.args[0].startswith(message)


def test_a_step_shows_its_progress_and_keeps_the_log(script, tmp_path, capsys):
    script.cache().mkdir(parents=True)
    code, output = script.run_logged('Step', [sys.executable, '-c', 'print("a"); exit(3)'], tmp_path / 'log', {})
    assert (code, output) == (3, 'a\n')
    assert (tmp_path / 'log').read_text() == 'a\n'
    assert capsys.readouterr().out == 'Step\n'


@pytest.mark.skipif(sys.platform != 'linux', reason='asks the Linux kernel to end children')
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_set_up_leaves_no_pip_behind(tmp_path, number):
    code = (
        f'{IMPORT}from pathlib import Path\n'
        's.cache().mkdir(parents=True)\n'
        's.signal.signal(s.signal.SIGTERM, lambda *_: sys.exit(143))\n'
        f's.run_logged("Step", ["sh", "-c", "echo $$ > {tmp_path}/pid; exec sleep 60"], Path("{tmp_path}/log"), {{}})\n'
    )
    env = {**os.environ, 'XDG_CACHE_HOME': str(tmp_path / 'cache')}
    process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.DEVNULL, env=env)
    deadline = time.monotonic() + 20
    while not ((tmp_path / 'pid').exists() and (tmp_path / 'pid').read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.05)
    child = int((tmp_path / 'pid').read_text())
    process.send_signal(number)
    process.wait(20)
    stat = Path(f'/proc/{child}/stat')
    while stat.exists() and stat.read_text().split()[2] != 'Z' and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not stat.exists() or stat.read_text().split()[2] == 'Z'


def test_a_second_set_up_waits_for_the_first(script, tmp_path):
    code = f'{IMPORT}with s.only_set_up():\n    print("in", flush=True)\n'
    with script.only_set_up():
        second = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
        assert second.stdout.readline().startswith('Waiting')
    assert second.communicate(timeout=20)[0] == 'in\n'


def test_a_set_up_waits_for_what_a_killed_one_left_running(script):
    script.cache().mkdir(parents=True)
    orphan = subprocess.Popen(['sleep', '1'], start_new_session=True)
    (script.cache() / 'running').write_text(str(orphan.pid))
    threading.Thread(target=orphan.wait).start()  # as init would, so that the process goes when it ends
    with script.only_set_up():
        assert orphan.poll() == 0
    started = time.monotonic()
    with script.only_set_up():
        assert time.monotonic() - started < 1


def test_the_command_runs_with_the_environment_and_the_checkout_first(tmp_path):
    executable(tmp_path / 'bin' / 'python', 'echo "$PYTHONPATH"')
    code = f'{IMPORT}from pathlib import Path\ns.run_command(Path({str(tmp_path)!r}), ["python"])\n'
    env = {**os.environ, 'PYTHONPATH': '/mine'}
    done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert done.stdout == f'{ROOT}:/mine\n'


# mmcv -----------------------------------------------------------------------------------------------------------------


def test_the_cache_is_keyed_by_python_torch_and_operators(script, monkeypatch):
    key = script.wheel_key('2.13.0+cpu', 'cpu')
    assert key.startswith(f'mmcv-2.1.0-cp3{sys.version_info[1]}-')
    assert key.endswith('-torch-2.13.0+cpu-cpu')
    wheel = script.cache() / key / 'mmcv-2.1.0-any.whl'
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    assert script.wheels_for('2.13.0+cpu', 'cpu') == script.wheels_for('2.13.0') == [wheel]
    for torch, operators in (('2.13.0+cu130', '*'), ('2.13.0+cpu', 'cu13.0-9.0'), ('2.12.0', '*'), ('2.13', '*')):
        assert script.wheels_for(torch, operators) == []
    monkeypatch.setattr(sys, 'version_info', (3, 10, 0) if sys.version_info[1] != 10 else (3, 12, 0))
    assert script.wheels_for('2.13.0') == []


def test_a_wheel_in_the_cache_needs_no_compiler(script, tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setattr(script, 'loads', lambda library: True)
    with pytest.raises(script.SetupError, match='C\\+\\+ compiler'):
        script.check_machine(tmp_path / 'env')
    wheel = script.cache() / script.wheel_key('2.13.0+cpu', 'cpu') / 'mmcv-2.1.0-any.whl'
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    script.check_machine(tmp_path / 'env')


@pytest.mark.parametrize(
    ('cuda', 'release', 'gpus', 'key', 'obstacle'),
    [
        (None, '13.0', [], 'cpu', ''),
        ('13.0', None, ['9.0'], 'cpu', 'torch is for CUDA 13.0, and there is no nvcc'),
        ('13.0', '12.4', ['9.0'], 'cpu', 'torch is for CUDA 13.0, and nvcc is 12.4'),
        ('13.0', '13.2', ['9.0'], 'cu13.2-9.0', ''),
        ('12.1', '12.4', ['8.0', '9.0'], 'cu12.4-8.0_9.0', ''),
        ('13.0', '13.0', [], 'cu13.0-all', ''),
    ],
)
def test_cuda_operators_are_built_where_nvcc_fits_torch(script, tmp_path, cuda, release, gpus, key, obstacle):
    if release:
        executable(tmp_path / 'bin' / 'nvcc', f'echo "Cuda compilation tools, release {release}, V{release}.48"')
    operators, variables, reason = script.cuda_operators(cuda, str(tmp_path), gpus)
    assert (operators, reason) == (key, obstacle)
    assert variables['FORCE_CUDA'] == str(int(key != 'cpu'))
    assert variables.get('TORCH_CUDA_ARCH_LIST') == (';'.join(gpus) if key != 'cpu' and gpus else None)
    assert variables.get('CUDA_VISIBLE_DEVICES') == ('' if key == 'cpu' else None)  # mmcv builds for any GPU it sees


@pytest.fixture
def mmcv(script, tmp_path, monkeypatch):
    """A machine with CPU torch whose mmcv builds at once; `works` says which wheels do."""

    class Mmcv:
        works, builds, installed, code = {'built'}, 0, None, 0
        wheel = script.cache() / script.wheel_key('2.13.0+cpu', 'cpu') / 'mmcv-2.1.0-cp3-linux.whl'

        def run_logged(self, title, command, log, variables):
            assert variables['MMCV_WITH_OPS'] == '1'
            self.builds += 1
            folder = Path(command[command.index('--wheel-dir') + 1])
            (folder / self.wheel.name).write_text('built')
            log.write_text('all of it')
            if self.code is KeyboardInterrupt:
                raise KeyboardInterrupt
            return self.code, 'In file a.cpp\na.cpp:3: error: no such type\nninja: build stopped\n'

        def pip(self, prefix, title, *arguments):
            self.installed = Path(arguments[-1]).read_text()
            if self.installed == 'truncated':
                raise script.SetupError('pip failed: not a zip file', '')

    self = Mmcv()
    self.wheel.parent.mkdir(parents=True)
    torch = json.dumps(['2.13.0+cpu', None, None, []])
    monkeypatch.setattr(script, 'capture', lambda *command: (0, torch, ''))
    monkeypatch.setattr(script, 'check_machine', lambda *_, **__: None)
    monkeypatch.setattr(script, 'run_logged', self.run_logged)
    monkeypatch.setattr(script, 'pip', self.pip)
    monkeypatch.setattr(script, 'version', lambda name: '2.1.0' if self.installed else '')
    monkeypatch.setattr(script, 'direct_url', lambda name: self.wheel.as_uri() if self.installed else '')
    monkeypatch.setattr(script, 'mmcv_failure', lambda: '' if self.installed in self.works else 'undefined symbol')
    return self


def test_mmcv_is_built_once(script, mmcv, tmp_path, capsys):
    script.install_mmcv(tmp_path)
    assert (mmcv.builds, mmcv.installed, mmcv.wheel.read_text()) == (1, 'built', 'built')
    assert 'has to be compiled' in capsys.readouterr().out
    assert {path.name for path in mmcv.wheel.parent.iterdir()} == {'build.log', mmcv.wheel.name}
    script.install_mmcv(tmp_path)  # it is installed
    mmcv.installed = None
    script.install_mmcv(tmp_path)  # it is in the cache
    assert (mmcv.builds, mmcv.installed) == (1, 'built')


@pytest.mark.parametrize('content', ['truncated', 'for another torch'])
def test_a_wheel_that_does_not_work_is_built_anew(script, mmcv, tmp_path, content):
    mmcv.wheel.write_text(content)
    script.install_mmcv(tmp_path)
    assert (mmcv.builds, mmcv.installed, mmcv.wheel.read_text()) == (1, 'built', 'built')


def test_an_mmcv_that_somebody_else_built_is_kept_if_it_works(script, mmcv, tmp_path, monkeypatch):
    monkeypatch.setattr(script, 'direct_url', lambda name: '')
    mmcv.installed = 'theirs'
    mmcv.works.add('theirs')
    script.install_mmcv(tmp_path)
    assert (mmcv.builds, mmcv.installed) == (0, 'theirs')
    mmcv.works.remove('theirs')
    script.install_mmcv(tmp_path)
    assert (mmcv.builds, mmcv.installed) == (1, 'built')


def test_ours_for_another_torch_is_replaced(script, mmcv, tmp_path, monkeypatch):
    other = script.cache() / script.wheel_key('2.12.0+cpu', 'cpu') / mmcv.wheel.name
    monkeypatch.setattr(script, 'direct_url', lambda name: other.as_uri())
    mmcv.installed = 'built'
    script.install_mmcv(tmp_path)
    assert mmcv.builds == 1


def test_a_failed_build_names_its_log_and_errors_and_leaves_no_wheel(script, mmcv, tmp_path):
    mmcv.code = 1
    with pytest.raises(script.SetupError) as error:
        script.install_mmcv(tmp_path)
    log = mmcv.wheel.parent / 'build.log'
    assert str(log) in error.value.args[0]
    assert error.value.args[1:] == ('a.cpp:3: error: no such type',)
    assert [path.name for path in mmcv.wheel.parent.iterdir()] == ['build.log']


def test_an_interrupted_build_leaves_no_wheel(script, mmcv, tmp_path):
    (mmcv.wheel.parent / 'build-killed').mkdir()  # left by a kill -9
    mmcv.code = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        script.install_mmcv(tmp_path)
    assert [path.name for path in mmcv.wheel.parent.iterdir()] == ['build.log']


def test_the_supported_pythons_are_those_of_the_package():
    text = (ROOT / 'setup.py').read_text()
    spec = importlib.util.spec_from_file_location('setup_environment', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    first, last = module.SUPPORTED[0], module.SUPPORTED[-1]
    assert f"python_requires='>={first[0]}.{first[1]},<{last[0]}.{last[1] + 1}'" in text
