#!/usr/bin/env python3
"""Set up an environment for mmtwins once, then run a command in it.

    python3 tools/setup_environment.py [-- command ...]

The environment is the active virtual or conda environment, else .venv in the checkout. A torch that it has is kept.
mmcv is built once per Python, torch and CUDA; its wheel stays in the user's cache directory. Everything else is left to
pip and its configuration. Standard library only; what runs before the environment is found also runs on a Python too
old for mmtwins, to say so.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / '.venv'
SUPPORTED = ((3, 10), (3, 11), (3, 12))
NEEDED = 'mmtwins needs Python 3.10, 3.11 or 3.12'
OLDEST_TORCH = (2, 1)
INSTALLED = 'lib/python3.*/site-packages/*.dist-info'
STATE = 'mmtwins-setup'  # folder in the environment: done.json, unfinished, constraints.txt, pip.log
NEVER_REPLACED = ('torch', 'torchvision', 'torchaudio', 'triton', 'numpy')
SYSTEM_LIBRARIES = {'libGL.so.1': 'libgl1', 'libglib-2.0.so.0': 'libglib2.0-0'}  # by Debian package
AGAIN = 'run the same command again'
FREE_SOME = f'Free some (sudo apt-get clean, {sys.executable} -m pip cache purge)'


class SetupError(Exception):
    """What is wrong, then what to do about it: a line each."""


def say(line: str) -> None:
    print(line, flush=True)


def main(arguments: list) -> int:
    """Set up and turn into the command. The command line is `[--inside] [-- command ...]`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that children are ended and temporary files removed
    command = arguments[arguments.index('--') + 1 :] if '--' in arguments else []
    try:
        prefix = find_environment()
        if os.path.realpath(sys.prefix) != os.path.realpath(str(prefix)):
            if '--inside' in arguments:
                raise SetupError(f'The environment {prefix} has a Python of elsewhere.', f'Remove it and {AGAIN}.')
            if prefix == VENV:
                with only_set_up():
                    prepare_venv()
            python = str(prefix / 'bin' / 'python')
            os.execv(python, [python, str(Path(__file__).resolve()), '--inside'] + arguments)
        check_python(prefix)
        if not is_set_up(prefix, command):
            with only_set_up():
                if not is_set_up(prefix, command):
                    set_up(prefix)
        if command:
            run_command(prefix, command)
        say(f'mmtwins is set up in {prefix}.')
    except SetupError as error:
        print(*error.args, sep='\n', file=sys.stderr)
        return 1
    except OSError as error:
        print(f'Set-up stopped: {error}.', f'Mend that and {AGAIN}.', sep='\n', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f'\nInterrupted: {AGAIN} to go on.', file=sys.stderr)
        return 130
    return 0


# The environment ------------------------------------------------------------------------------------------------------


def find_environment() -> Path:
    """The environment of this Python, the active one, or .venv."""
    if sys.prefix != sys.base_prefix:
        return Path(sys.prefix)
    for variable in ('VIRTUAL_ENV', 'CONDA_PREFIX'):
        prefix = os.environ.get(variable)
        if prefix and not os.access(os.path.join(prefix, 'bin', 'python'), os.X_OK):
            raise SetupError(f'{variable} is {prefix}; there is no Python in it.', f'unset {variable}, and {AGAIN}.')
        if prefix:
            return Path(prefix)
    return VENV


def check_python(prefix: Path) -> None:
    """Refuse a Python outside SUPPORTED.

    Args:
        prefix: The environment that it is or would be in.
    """
    if sys.version_info[:2] in SUPPORTED:
        return
    version = platform.python_version()
    if os.path.realpath(sys.prefix) == os.path.realpath(str(prefix)):
        remedy = f'Remove it (rm -r {prefix})' if prefix == VENV else 'Leave it (deactivate)'
        raise SetupError(f'The environment {prefix} has Python {version}; {NEEDED}.', f'{remedy} and {AGAIN}.')
    found = next((name for name in ('python3.11', 'python3.12', 'python3.10') if starts(name, '-c', '')), None)
    install = 'Install one (sudo apt-get install python3.11 python3.11-venv python3.11-dev) and choose it'
    remedy = f'{"Choose the one at hand" if found else install}: make demo PYTHON={found or "python3.11"}'
    raise SetupError(f'{sys.executable} is Python {version}; {NEEDED}.', remedy)


def capture(*command: str) -> tuple:
    """Run a command: exit code, output, and the last line of what it said."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return done.returncode, done.stdout, (done.stdout + done.stderr).strip().rpartition('\n')[2]


def starts(*command: str) -> bool:
    """Whether a command is there and succeeds (a pyenv shim may be there and fail)."""
    try:
        return subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def prepare_venv() -> None:
    """Create .venv, or create it anew where a creation was cut off or the folder was moved."""
    python = VENV / 'bin' / 'python'
    if os.access(str(python), os.X_OK):
        made_with = {path.name for path in VENV.glob('lib/python3.*')}
        if os.environ.get('PYTHON') and f'python3.{sys.version_info[1]}' not in made_with:
            raise SetupError(
                f'.venv was made with {", ".join(sorted(made_with))}, and PYTHON asks for {platform.python_version()}.',
                f'Remove it (rm -r {VENV}) or leave out PYTHON=, and {AGAIN}.',
            )
        done = last_set_up(VENV)
        if (done['state']['prefix'] == str(VENV)) if done else venv_is_whole():
            return
        installed = {path.name.split('-')[0] for path in VENV.glob(INSTALLED)}
        if not (VENV / STATE).exists() and installed - {'pip', 'setuptools'}:
            return  # somebody else's, made without pip
    check_python(VENV)
    check_machine(VENV)
    command = [sys.executable, '-m', 'venv', '--clear', str(VENV)]
    code, output = run_logged(
        f'Creating .venv with Python {platform.python_version()}', command, cache() / 'venv.log', {}
    )
    if code:
        error = output.strip().rpartition('\n')[2]
        raise SetupError(f'.venv could not be created: {error}', f'Try {shlex.join(command)}, then {AGAIN}.')


def venv_is_whole() -> bool:
    """Whether the creation of .venv was not cut off; pip writes INSTALLER after a package's files."""
    infos = list(VENV.glob(INSTALLED))
    whole = {info.name.split('-')[0] for info in infos if (info / 'INSTALLER').exists()}
    return (VENV / 'pyvenv.cfg').exists() and 'pip' in whole and ((VENV / STATE).exists() or len(whole) == len(infos))


def check_machine(prefix: Path, builds_mmcv: bool = False) -> None:
    """Refuse, before anything is downloaded, a machine that lacks a tool or disk space for what is still to be done."""
    python = f'python3.{sys.version_info[1]}'
    missing = {}
    creates_venv = os.path.realpath(sys.prefix) != os.path.realpath(str(prefix))
    if creates_venv and not (importlib.util.find_spec('venv') and importlib.util.find_spec('ensurepip')):
        missing[f"Python's venv module (of {sys.executable})"] = f'{python}-venv'
    torch = None if creates_venv else version('torch')
    has_mmcv = not creates_venv and version('mmcv') == pin('mmcv')
    builds_mmcv = builds_mmcv or not (has_mmcv or wheels_for(torch or pin('torch')))
    if builds_mmcv and not compiler():
        missing[f'a C++ compiler ({os.environ.get("CXX") or "g++"})'] = 'g++'
    if builds_mmcv and not os.path.exists(os.path.join(sysconfig.get_path('include'), 'Python.h')):
        missing[f"Python's headers (Python.h of {python})"] = f'{python}-dev'
    if sys.platform == 'linux' and (creates_venv or not version('opencv-python')):
        for library, package in SYSTEM_LIBRARIES.items():
            if not loads(library):
                missing[f'{library} (for OpenCV)'] = package
    if missing:
        packages = ' '.join(missing.values())
        raise SetupError(f'Missing: {" and ".join(missing)}.', f'Install: sudo apt-get install {packages}')
    needs = [(prefix, 1.5 if torch else 4.0), (Path(tempfile.gettempdir()), 0.5)]
    if builds_mmcv:
        needs += [(cache(), 1.0)]
    for path, gigabytes in needs:
        place = next(parent for parent in (path, *path.parents) if parent.exists())
        free = shutil.disk_usage(str(place)).free / 1e9
        if free < gigabytes:
            problem = f'Too little disk space: {path} needs {gigabytes} GB, {free:.1f} GB are free.'
            raise SetupError(problem, f'{FREE_SOME} and {AGAIN}.')


def loads(library: str) -> bool:
    try:
        return bool(ctypes.CDLL(library))
    except OSError:
        return False


def compiler() -> str:
    """The C++ compiler, or nothing."""
    names = [shlex.split(os.environ['CXX'])[0]] if os.environ.get('CXX', '').strip() else ['c++', 'g++', 'clang++']
    return next((name for name in names if shutil.which(name)), '')


# What there is --------------------------------------------------------------------------------------------------------


def requirements(name: str) -> dict:
    """The lines of requirements/NAME.txt by package name."""
    lines = [line.split('#')[0].strip() for line in (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()]
    return {re.match(r'[\w.-]*\w', line).group().lower(): line for line in lines if line}


def pin(name: str) -> str:
    """The version of torch or mmcv that requirements/ asks for."""
    return requirements(name)[name].split('==')[1]


def version(name: str) -> str:
    """The installed version of a package, or nothing."""
    import importlib.metadata

    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name) or ''
    return ''


def direct_url(name: str) -> str:
    """The file or folder that pip installed a package from, or nothing; `package` for a copy of mmtwins."""
    import importlib.metadata

    origin = ''
    for distribution in importlib.metadata.distributions(name=name):
        origin = origin or json.loads(distribution.read_text('direct_url.json') or '{}').get('url', '')
        if name == 'mmtwins' and (Path(sysconfig.get_path('purelib')) / 'mmtwins' / '__init__.py').exists():
            return 'package'
    return origin


def describe(prefix: Path) -> dict:
    """Everything whose change makes a new set-up necessary, found without importing torch."""
    files = [Path(__file__), *sorted((ROOT / 'requirements').iterdir())]
    names = [name for file in files[1:] for name in requirements(file.stem)]
    return {
        'prefix': str(prefix),
        'set-up': hashlib.sha256(b''.join(file.read_bytes() for file in files)).hexdigest(),
        'python': sys.version,
        'versions': {name: version(name) for name in sorted({*names})},
        'mmcv': direct_url('mmcv'),
        'mmtwins': direct_url('mmtwins') in ('package', ROOT.as_uri()),
    }


def is_set_up(prefix: Path, command: list) -> bool:
    """Whether nothing changed since the last set-up; without a command, one that lacked nvcc is worth another try."""
    done = last_set_up(prefix)
    return bool(done) and done['state'] == describe(prefix) and not (done['obstacle'] and not command)


def last_set_up(prefix: Path) -> dict:
    """What the last set-up that came to its end noted; nothing where there was none or another version noted it."""
    with contextlib.suppress(OSError, ValueError):
        done = json.loads((prefix / STATE / 'done.json').read_text())
        if isinstance(done, dict) and {'state', 'obstacle'} <= set(done):
            return done
    return {}


# Setting up -----------------------------------------------------------------------------------------------------------


def set_up(prefix: Path) -> None:
    """Bring the environment of this Python to what requirements/ asks for."""
    check_machine(prefix)
    state = prefix / STATE
    state.mkdir(exist_ok=True)
    (state / 'done.json').unlink(missing_ok=True)
    (state / 'pip.log').unlink(missing_ok=True)
    forget_cut_off_installations(state / 'unfinished')
    if not importlib.util.find_spec('pip'):
        if not importlib.util.find_spec('ensurepip'):
            name = f'python3.{sys.version_info[1]}-venv'
            raise SetupError(f'There is no pip in {prefix}.', f'Install: sudo apt-get install {name}, and {AGAIN}.')
        run_logged('Installing pip', [sys.executable, '-m', 'ensurepip', '--default-pip'], state / 'pip.log', {})

    torch = version('torch')
    if torch and tuple(map(int, re.findall(r'\d+', torch)[:2])) < OLDEST_TORCH:
        raise SetupError(
            f'{prefix} has torch {torch}; mmtwins needs 2.1 or newer, and set-up never replaces a torch.',
            f'Upgrade it yourself, or leave that environment (deactivate), and {AGAIN}.',
        )
    say(f'Setting up mmtwins in {prefix}' + (f' with its torch {torch}' if torch else ''))
    size = '0.2 GB to download for CPU, about 3 GB for CUDA'
    if torch:
        pip(prefix, 'Installing build tools', *files('build'))
    else:
        pip(prefix, f'Installing torch {pin("torch")} ({size})', *files('torch', 'build'))
    title = 'Installing MMEngine, MMSegmentation, MMDetection and what they need (about 0.3 GB to download)'
    pip(prefix, title, *files('base', 'seg', 'det', 'hub', 'mim', 'tests'))
    obstacle = install_mmcv(prefix)
    mmtwins = [] if direct_url('mmtwins') == 'package' else ['--editable', str(ROOT)]
    if not mmtwins:
        say('Keeping the mmtwins package that is installed; the commands of make use the checkout all the same')
    pip(prefix, 'Installing openmim and mmtwins', '--no-deps', '--no-build-isolation', *files('openmim'), *mmtwins)

    temporary = state / 'done.json.new'
    temporary.write_text(json.dumps({'obstacle': obstacle, 'state': describe(prefix)}, indent=1))
    os.replace(temporary, state / 'done.json')
    (state / 'unfinished').unlink()


def forget_cut_off_installations(marker: Path) -> None:
    """Make pip install again whatever it was installing when a former set-up was killed.

    pip writes INSTALLER after a package's files; metadata alone would pass for an installed package.
    """
    if marker.exists():
        for info in Path(sysconfig.get_path('purelib')).glob('*.dist-info'):
            if not (info / 'INSTALLER').exists() and info.stat().st_mtime > marker.stat().st_mtime - 2:
                shutil.rmtree(str(info))
        importlib.invalidate_caches()
    else:
        marker.touch()


def files(*names: str) -> list:
    return [part for name in names for part in ('-r', str(ROOT / 'requirements' / f'{name}.txt'))]


def pip(prefix: Path, title: str, *arguments: str) -> None:
    """Run `pip install`, with whatever torch and NumPy there are held fast."""
    kept = {name: version(name) for name in NEVER_REPLACED}
    lines = [f'{name}=={number}' for name, number in kept.items() if number]
    if kept['torch'] and not kept['numpy'] and tuple(map(int, re.findall(r'\d+', kept['torch'])[:2])) < (2, 3):
        lines.append('numpy<2')  # torch before 2.3 was built for NumPy 1
    constraints = prefix / STATE / 'constraints.txt'
    constraints.write_text('\n'.join(lines) + '\n')
    log = prefix / STATE / 'pip.log'
    command = [sys.executable, '-m', 'pip', 'install', '-c', str(constraints), *arguments]
    code, output = run_logged(title, command, log, {})
    importlib.invalidate_caches()
    if code:
        raise pip_failure(output, log)


def pip_failure(output: str, log: Path) -> SetupError:
    """pip's wall of text in two lines."""
    if 'No space left on device' in output:
        return SetupError('The disk is full.', f'{FREE_SOME} and {AGAIN}.')
    details = f'{AGAIN}; all that pip said is in {log}'
    check = f'Check the connection and `{sys.executable} -m pip config list`, then {details}'
    unreachable = r'NewConnection|NameResolution|Timeout|timed out|ProxyError|SSLError|Connection\w*Error'
    if re.search(rf'(?m)^\s*(WARNING|ERROR|pip\._vendor).*({unreachable})', output):
        return SetupError('No network: pip cannot reach its package index.', check)
    unknown = re.search(r'satisfies the requirement (\S+) \(from versions: none\)', output)
    if unknown:  # with retries=0 pip is silent about the connection
        return SetupError(f'No network, or a package index without {unknown.group(1)}: pip finds none.', check)
    errors = re.findall(r'(?m)^\s*(?:ERROR|error|\w*Error): (.+)', output) or [output.strip() or 'no reason given']
    return SetupError(f'pip failed: {errors[-1].splitlines()[-1]}', f'Mend that and {details}')


def run_logged(title: str, command: list, log: Path, variables: dict) -> tuple:
    """Run a command with its output in a log file and its progress behind the title.

    Returns:
        The exit code and the output.
    """
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get('PATH', os.defpath)])
    env = {**os.environ, **variables, 'PATH': path, 'PIP_USER': '0', 'PIP_REQUIRE_VIRTUALENV': '0', 'PIP_NO_INPUT': '1'}
    env.pop('MAKEFLAGS', None)
    output, progress, started, terminal = [], [''], time.monotonic(), sys.stdout.isatty()

    def follow() -> None:
        with open(log, 'a') as sink:
            for line in process.stdout:
                sink.write(line)
                output.append(line)
                match = re.search(r'(\[\d+/\d+\])|(Downloading \S+ \(.*\))', line)
                progress[0] = ' '.join(filter(None, match.groups())) if match else progress[0]

    def report(end: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - started), 60)
        text = f'{title}: {minutes}:{seconds:02d} {"" if end else progress[0]}'
        print(f'\r{text[: shutil.get_terminal_size().columns - 1]}\033[K', end=end, flush=True)

    if not terminal:
        say(title)
    pipes = {'stdin': subprocess.DEVNULL, 'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'errors': 'replace'}
    process = subprocess.Popen(command, env=env, start_new_session=True, preexec_fn=end_with_parent, **pipes)
    (cache() / 'running').write_text(str(process.pid))
    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    try:
        seconds = 0
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            seconds += 1
            if terminal:
                report('')
            elif seconds % 60 == 0:
                say(f'  {seconds // 60} min {progress[0]}')
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        reader.join(5)
        (cache() / 'running').unlink(missing_ok=True)
        if terminal:
            report('\n')
    return process.returncode, ''.join(output)


def end_with_parent() -> None:
    """Have the kernel end a child when this process is killed, so that no second pip runs beside the next set-up's."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


# mmcv -----------------------------------------------------------------------------------------------------------------


def cache() -> Path:
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mmtwins'


def wheel_key(torch: str, operators: str) -> str:
    """Name of the cache folder of an mmcv wheel: all that its binary code depends on."""
    return f'mmcv-{pin("mmcv")}-cp3{sys.version_info[1]}-{platform.machine()}-torch-{torch}-{operators}'


def wheels_for(torch: str, operators: str = '*') -> list:
    """Cached wheels; a torch version without a local part (+cpu, +cu130) stands for every one."""
    keys = [wheel_key(torch, operators)] + ([wheel_key(torch + '+*', operators)] if '+' not in torch else [])
    return sorted(path for key in keys for path in cache().glob(f'{key}/mmcv-*.whl'))


@contextlib.contextmanager
def only_set_up():
    """Hold the lock that lets one set-up of this user run at a time; the kernel drops it when the process ends."""
    cache().mkdir(parents=True, exist_ok=True)
    with open(str(cache() / 'lock'), 'w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say('Waiting for another set-up on this machine to finish')
            fcntl.flock(lock, fcntl.LOCK_EX)
        # What outlived a killed set-up (pip inside venv, the compiler) still writes: wait for it, a minute at most.
        with contextlib.suppress(OSError, ValueError):
            group = int((cache() / 'running').read_text())
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                os.killpg(group, 0)
                time.sleep(0.2)
        yield


def cuda_operators(cuda: str, cuda_home: str, gpus: list) -> tuple:
    """Decide whether mmcv's CUDA operators can be built.

    Args:
        cuda: CUDA version of torch, or nothing.
        cuda_home: Where torch finds CUDA's compiler, or nothing.
        gpus: Compute capabilities of the visible GPUs.

    Returns:
        The operators' part of the cache key, the build's environment variables, and why there are no CUDA operators.
    """
    cpu = ('cpu', {'FORCE_CUDA': '0', 'CUDA_VISIBLE_DEVICES': ''})
    if not cuda or os.environ.get('FORCE_CUDA') == '0':
        return (*cpu, '')
    nvcc = os.path.join(cuda_home or '', 'bin', 'nvcc')
    found = ''
    if cuda_home and os.access(nvcc, os.X_OK):
        found = (re.findall(r'release (\d+\.\d+)', capture(nvcc, '--version')[1]) or [''])[0]
    if found.split('.')[0] != cuda.split('.')[0]:
        return (*cpu, f'torch is for CUDA {cuda}, and ' + (f'nvcc is {found}' if found else 'there is no nvcc'))
    architectures = os.environ.get('TORCH_CUDA_ARCH_LIST') or ';'.join(gpus)
    variables = {'FORCE_CUDA': '1', **({'TORCH_CUDA_ARCH_LIST': architectures} if architectures else {})}
    return f'cu{found}-{re.sub(r"[^0-9A-Za-z.+]+", "_", architectures) or "all"}', variables, ''


def install_mmcv(prefix: Path) -> str:
    """Install mmcv with its compiled operators, from the cache where it holds the wheel for this torch.

    Returns:
        Why there are no CUDA operators, if torch could use them.
    """
    probe = (
        'import cv2, json, torch; from torch.utils.cpp_extension import CUDA_HOME; '
        'gpus = range(torch.cuda.device_count()); '
        'gpus = sorted({"%d.%d" % torch.cuda.get_device_capability(i) for i in gpus}); '
        'print(json.dumps([torch.__version__, torch.version.cuda, CUDA_HOME, gpus]))'
    )
    code, output, error = capture(sys.executable, '-c', probe)
    if code:
        raise SetupError(f'torch or OpenCV cannot be imported: {error}', f'Mend the environment {prefix} and {AGAIN}.')
    torch, cuda, cuda_home, gpus = json.loads(output)
    operators, variables, obstacle = cuda_operators(cuda, cuda_home, gpus)
    key = wheel_key(torch, operators)
    if obstacle:
        say(f'mmcv gets its CPU operators only: {obstacle}. Segmentation trains on a GPU all the same;')
        say(f'detection does not (RoIAlign, NMS): for that install the CUDA {cuda} toolkit and run make setup')
    origin = unquote(direct_url('mmcv'))
    fits = f'/{key}/' in origin or '/mmtwins/mmcv-' not in origin  # ours for this torch, or somebody else's
    fits = fits or (operators == 'cpu' and f'/{wheel_key(torch, "cu")}' in origin)  # built when there was an nvcc
    if version('mmcv') == pin('mmcv') and fits and not mmcv_failure():
        return obstacle
    title = f'Installing mmcv {pin("mmcv")}'
    wheel = next(iter(wheels_for(torch, operators)), None)
    if wheel:
        try:
            pip(prefix, f'{title} from the wheel built before', '--no-deps', '--force-reinstall', str(wheel))
            failure = mmcv_failure()
        except SetupError as error:
            failure = error.args[0]
        if not failure:
            return obstacle
        say('The wheel of mmcv in the cache does not work: building it anew')
        wheel.unlink()
    check_machine(prefix, builds_mmcv=True)
    wheel = build_mmcv(torch, operators, variables)
    pip(prefix, title, '--no-deps', '--force-reinstall', str(wheel))
    failure = mmcv_failure()
    if failure:
        wheel.unlink()
        raise SetupError(f'mmcv was built and does not work: {failure}', f'The log is {wheel.parent / "build.log"}')
    return obstacle


def mmcv_failure() -> str:
    """Why mmcv's compiled operators do not work, or nothing: two equal boxes must become one."""
    code, _, error = capture(
        sys.executable, '-c',
        'import torch; from mmcv.ops import nms; boxes = torch.tensor([[0., 0., 8., 8.]] * 2); '
        'assert len(nms(boxes, torch.tensor([0.5, 0.4]), 0.5)[1]) == 1, "nms is wrong"',
    )  # fmt: skip
    return (error or f'exit code {code}') if code else ''


def build_mmcv(torch: str, operators: str, variables: dict) -> Path:
    """Build mmcv's wheel into the cache, where it appears only when whole."""
    folder = cache() / wheel_key(torch, operators)
    folder.mkdir(exist_ok=True)
    for leftover in folder.glob('build-*'):
        shutil.rmtree(str(leftover), ignore_errors=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    gigabytes = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2**30
    cuda = variables['FORCE_CUDA'] == '1'
    jobs = int(os.environ.get('MAX_JOBS') or max(1, min(cores, gigabytes // (2 if cuda else 1))))
    listed = variables.get('TORCH_CUDA_ARCH_LIST')
    architectures = len(re.split('[; ]+', listed)) if listed else 6  # torch's own list, about
    minutes = (12 + 20 * architectures * cuda) * 2 / jobs
    log = folder / 'build.log'
    log.unlink(missing_ok=True)
    say(f'mmcv {pin("mmcv")} ({operators} operators) has to be compiled for torch {torch}, once on this machine:')
    say(f'about {max(1, round(minutes))} minutes on {jobs} {"core" if jobs == 1 else "cores"}')
    with tempfile.TemporaryDirectory(prefix='build-', dir=str(folder)) as temporary:
        # --no-cache-dir: pip's own cache would hand out a wheel built for another torch
        options = ['--verbose', '--no-deps', '--no-build-isolation', '--no-binary=mmcv', '--no-cache-dir']
        command = [sys.executable, '-m', 'pip', 'wheel', *options, '--wheel-dir', temporary, *files('mmcv')]
        variables = {**variables, 'MMCV_WITH_OPS': '1', 'MAX_JOBS': str(jobs), 'TMPDIR': temporary}
        variables['CXX'] = os.environ.get('CXX') or compiler()
        code, output = run_logged(f'Building mmcv {pin("mmcv")}', command, log, variables)
        wheels = list(Path(temporary).glob('mmcv-*.whl'))
        if code or not wheels:
            reasons = [line for line in output.splitlines() if re.search(r'\berror:|Error:|Killed|No space left', line)]
            failure = pip_failure(output, log)
            if not failure.args[0].startswith('pip failed'):
                raise failure
            hint = 'MAX_JOBS=1 needs less memory' if 'Killed' in output else 'its last errors'
            reasons = reasons or output.splitlines()
            problem = f'Building mmcv {pin("mmcv")} failed. The log is {log}; {hint}:'
            raise SetupError(problem, *[line[:300] for line in reasons[-5:]])
        target = folder / wheels[0].name
        os.replace(wheels[0], target)
    return target


def run_command(prefix: Path, command: list) -> None:
    """Turn this process into the command, with the environment's programs and the checkout's mmtwins first."""
    path = os.pathsep.join([str(prefix / 'bin'), os.environ.get('PATH', os.defpath)])
    modules = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    env = {**os.environ, 'PATH': path, 'PYTHONPATH': modules}
    if sys.prefix != sys.base_prefix:
        env['VIRTUAL_ENV'] = str(prefix)
    os.environ.update(env)
    sys.stdout.flush()
    os.execvp(command[0], command)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
