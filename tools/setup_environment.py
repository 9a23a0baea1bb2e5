#!/usr/bin/env python3
"""Set up an environment for mmtwins once, then run a command in it.

The environment is the active virtual or conda environment, else .venv in the checkout. pip does the work, and a torch
or NumPy that is there is never replaced. mmcv has no wheel on PyPI: it is built once per Python, torch and CUDA, and
the wheel is kept in the user's cache directory. Without a command the set-up always runs; with one, only after a change.
"""

from __future__ import annotations  # Python 3.8 and 3.9 must be able to read this file, to say that they are too old

import argparse
import contextlib
import ctypes
import fcntl
import hashlib
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
from importlib import metadata, util
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / '.venv'
CACHE = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mmtwins'
STATE = 'mmtwins-setup'  # folder in the environment: done.json, unfinished, constraints.txt, pip.log
NEVER_REPLACED = ('torch', 'torchvision', 'torchaudio', 'triton', 'numpy')
PYTHON = f'python3.{sys.version_info[1]}'
AGAIN = 'run the same command again'


class SetupError(Exception):
    """What is wrong, and what to do about it: one line each."""


def main(arguments: list[str]) -> int:
    """Set up, then become the command. Returns the exit code."""
    options, command = arguments, []
    if '--' in arguments:
        options, command = arguments[: arguments.index('--')], arguments[arguments.index('--') + 1 :]
    argparse.ArgumentParser(
        usage='%(prog)s [-h] [-- COMMAND ...]',
        description='Set up the active environment, or .venv in the checkout, then run COMMAND in it.',
        epilog='Variables: PYTHON (of a new .venv), CXX, MAX_JOBS, FORCE_CUDA=0, TORCH_CUDA_ARCH_LIST (to build mmcv).',
    ).parse_args(options)
    sys.stdout.reconfigure(line_buffering=True)
    try:
        prefix = find_environment()
        if os.path.realpath(sys.prefix) != os.path.realpath(prefix):
            if prefix == VENV:
                create_venv()
            start_again_in(prefix, arguments)
        check_python()
        if not command or last_set_up(prefix) != describe(prefix):
            with lock():
                if not command or last_set_up(prefix) != describe(prefix):
                    set_up(prefix)
        if command:
            run_command(prefix, command)
        print(f'mmtwins is set up in {prefix}.')
    except SetupError as error:
        print(*error.args, sep='\n', file=sys.stderr)
        return 1
    except OSError as error:
        print(f'Set-up stopped: {error}.', f'Fix that and {AGAIN}.', sep='\n', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f'\nInterrupted: {AGAIN} to continue.', file=sys.stderr)
        return 130
    return 0


def find_environment() -> Path:
    """The environment of this Python, the active one, or .venv."""
    if sys.prefix != sys.base_prefix:
        return Path(sys.prefix)
    active = os.environ.get('VIRTUAL_ENV') or os.environ.get('CONDA_PREFIX')
    return Path(active) if active else VENV


def check_python() -> None:
    """Refuse a Python that mmtwins does not support."""
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        found = f'{sys.executable} is Python {platform.python_version()}'
        leave = f'rm -r {VENV}' if sys.prefix == str(VENV) else 'Leave an active environment (deactivate)'
        raise SetupError(f'{found}; mmtwins needs 3.10, 3.11 or 3.12.', f'{leave}, then make demo PYTHON=python3.11')


def venv_is_there() -> bool:
    """Whether .venv has a Python and was not moved: programs such as mim name the folder in which they were installed."""
    return os.access(VENV / 'bin' / 'python', os.X_OK) and last_set_up(VENV).get('prefix', str(VENV)) == str(VENV)


def create_venv() -> None:
    """Create .venv without pip, unless it is there."""
    if venv_is_there():
        if os.environ.get('PYTHON') and not (VENV / 'lib' / PYTHON).exists():
            raise SetupError(f'.venv has another Python than {PYTHON}.', f'rm -r {VENV}, or leave out PYTHON=')
        return
    check_python()
    with lock():
        if not venv_is_there():
            command = [sys.executable, '-m', 'venv', '--without-pip', '--clear', str(VENV)]
            code, output = run(f'Creating .venv with Python {platform.python_version()}', command, CACHE / 'venv.log')
            if code:
                raise SetupError(f'.venv could not be created: {last_line(output)}', f'Try {" ".join(command)}')


def start_again_in(prefix: Path, arguments: list[str]) -> None:
    """Replace this process by the same script in the environment's Python."""
    python, found = str(prefix / 'bin' / 'python'), ''
    with contextlib.suppress(OSError):
        found = last_line(capture(python, '-c', 'import sys; print(sys.prefix)')[1])
    if os.path.realpath(found) != os.path.realpath(prefix):
        remedy = f'rm -r {VENV}' if prefix == VENV else 'Leave it (deactivate, or unset VIRTUAL_ENV CONDA_PREFIX)'
        raise SetupError(f'The environment {prefix} has no working Python of its own.', f'{remedy}, and {AGAIN}.')
    os.execv(python, [python, str(Path(__file__).resolve()), *arguments])


def requirements(name: str) -> dict[str, str]:
    """The lines of requirements/NAME.txt by package name."""
    lines = [line.split('#')[0].strip() for line in (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()]
    return {re.match(r'[\w.-]*\w', line).group().lower(): line for line in lines if line}


def version(name: str) -> str:
    """The installed version of a package, or nothing."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(name) or ''
    return ''


def direct_url(name: str) -> dict:
    """What pip noted about a package that it installed from a file or folder."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return json.loads(metadata.distribution(name).read_text('direct_url.json') or '{}')
    return {}


def describe(prefix: Path) -> dict:
    """Everything whose change makes a new set-up necessary, found without importing torch."""
    sources = sorted((ROOT / 'requirements').iterdir())
    names = sorted({'mmtwins', *(name for source in sources for name in requirements(source.stem))})
    return {
        'prefix': str(prefix),
        'checkout': str(ROOT),
        'sources': hashlib.sha256(b''.join(source.read_bytes() for source in [Path(__file__), *sources])).hexdigest(),
        'versions': {name: version(name) for name in names},
    }


def last_set_up(prefix: Path) -> dict:
    """What the last complete set-up noted, or nothing."""
    with contextlib.suppress(OSError, ValueError):
        done = json.loads((prefix / STATE / 'done.json').read_text())
        return done if isinstance(done, dict) else {}
    return {}


def set_up(prefix: Path) -> None:
    """Install what requirements/ asks for into the environment of this Python."""
    if not version('mmcv') and not [*CACHE.glob(f'{wheel_key("*", "*")}/mmcv-*.whl')]:
        check_compiler()  # before anything is downloaded
    state = prefix / STATE
    state.mkdir(exist_ok=True)
    for name in ('done.json', 'pip.log'):
        (state / name).unlink(missing_ok=True)
    forget_cut_off_packages(state / 'unfinished')
    if not version('pip'):
        if not util.find_spec('ensurepip'):
            raise SetupError(f'There is no pip in {prefix}.', f'sudo apt-get install {PYTHON}-venv, and {AGAIN}.')
        run('Installing pip', [sys.executable, '-m', 'ensurepip', '--default-pip'], state / 'pip.log')

    torch = version('torch')
    print(f'Setting up mmtwins in {prefix}' + (f' with its torch {torch}' if torch else ''))
    size = '' if torch else ' and torch (0.2 GB to download for CPU, about 3 GB for CUDA)'
    pip(prefix, f'Installing build tools{size}', *files('build', *([] if torch else ['torch'])))
    title = 'Installing MMEngine, MMSegmentation, MMDetection and their requirements (about 0.5 GB to download)'
    pip(prefix, title, *files('base', 'seg', 'det', 'mim', 'export', 'app', 'video', 'tests', 'lint'))
    install_mmcv(prefix)
    # A copy that `pip install .` made serves mim: it stays. The commands of make import the checkout all the same.
    is_copy = version('mmtwins') and not direct_url('mmtwins').get('dir_info', {}).get('editable')
    mmtwins = [] if is_copy else ['--editable', str(ROOT)]
    pip(prefix, 'Installing openmim and mmtwins', '--no-deps', '--no-build-isolation', *files('openmim'), *mmtwins)

    (state / 'done.json.new').write_text(json.dumps(describe(prefix), indent=1))
    os.replace(state / 'done.json.new', state / 'done.json')
    (state / 'unfinished').unlink()


def check_compiler() -> None:
    """Refuse a machine that cannot build mmcv."""
    compiler = os.environ.get('CXX') or 'c++'
    if not shutil.which(shlex.split(compiler)[0]):
        raise SetupError(f'There is no C++ compiler ({compiler}); mmcv needs one.', 'sudo apt-get install g++')
    if not (Path(sysconfig.get_path('include')) / 'Python.h').exists():
        raise SetupError("Python's headers (Python.h) are missing.", f'sudo apt-get install {PYTHON}-dev')


def forget_cut_off_packages(marker: Path) -> None:
    """Make pip install again what it was installing when the last set-up was killed.

    pip writes METADATA first and INSTALLER last: without INSTALLER the package may lack files, but pip would keep it.
    """
    if marker.exists():
        for info in Path(sysconfig.get_path('purelib')).glob('*.dist-info'):
            if not (info / 'INSTALLER').exists() and info.stat().st_mtime > marker.stat().st_mtime - 2:
                shutil.rmtree(info)
    else:
        marker.touch()


def files(*names: str) -> list[str]:
    return [part for name in names for part in ('-r', str(ROOT / 'requirements' / f'{name}.txt'))]


def pip(prefix: Path, title: str, *arguments: str) -> None:
    """Run `pip install` with the present torch and NumPy held."""
    kept = {name: version(name) for name in NEVER_REPLACED}
    lines = [f'{name}=={number}' for name, number in kept.items() if number]
    if re.match(r'2\.[0-2]\.', kept['torch']) and not kept['numpy']:
        lines.append('numpy<2')  # torch before 2.3 was built for NumPy 1
    constraints, log = prefix / STATE / 'constraints.txt', prefix / STATE / 'pip.log'
    constraints.write_text('\n'.join(lines) + '\n')
    code, output = run(title, [sys.executable, '-m', 'pip', 'install', '-c', str(constraints), *arguments], log)
    if code:
        raise pip_failure(output, log)


def pip_failure(output: str, log: Path) -> SetupError:
    """pip's pages of errors in two lines."""
    if 'No space left on device' in output:
        return SetupError('The disk is full.', f'Free some space and {AGAIN}. The log is {log}')
    if re.search(r'NewConnection|NameResolution|Timeout|timed out|ProxyError|SSLError|from versions: none', output):
        remedy = f'Check the connection and `{sys.executable} -m pip config list`, then {AGAIN}. The log is {log}'
        return SetupError('No network: pip does not reach its package index, or the index lacks a package.', remedy)
    errors = re.findall(r'(?m)^.*: (?:fatal )?error: .+|^\s*(?:ERROR|\w*Error): .+', output) or [last_line(output)]
    advice = 'Fix that (MAX_JOBS=1 needs less memory)' if 'Killed' in errors[0] else 'Fix that'
    return SetupError(f'pip failed: {errors[0].strip()[:300]}', f'{advice} and {AGAIN}. The log is {log}')


def run(title: str, command: list[str], log: Path, **variables: str) -> tuple[int, str]:
    """Run a command and keep its output in a log file. A terminal shows the latest line of it.

    The command ends with this process, even if that is killed, and inherits the lock: the next set-up waits for its end.

    Returns:
        The exit code and the output.
    """
    print(title)
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get('PATH', os.defpath)])
    env = {**os.environ, 'PATH': path, 'PIP_USER': '0', 'PIP_REQUIRE_VIRTUALENV': '0', 'PIP_NO_INPUT': '1', **variables}
    env.pop('MAKEFLAGS', None)
    pipes = {'stdin': subprocess.DEVNULL, 'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'errors': 'replace'}
    pipes.update(close_fds=False, preexec_fn=end_with_parent)
    output, width = [], shutil.get_terminal_size().columns - 1
    with open(log, 'a') as sink, subprocess.Popen(command, env=env, **pipes) as process:
        for line in process.stdout:
            sink.write(line)
            output.append(line)
            if sys.stdout.isatty():
                print(f'\r{line.strip()[:width]}\033[K', end='\r', flush=True)
            elif re.match(r'\[\d*0/\d+\]', line):  # every tenth file of a build
                print(f'  {line.split()[0]}')
    return process.returncode, ''.join(output)


def end_with_parent() -> None:
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def capture(*command: str) -> tuple[int, str]:
    """Run a quick command: its exit code and output, with the errors if it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return done.returncode, done.stdout + (done.stderr if done.returncode else '')


def last_line(output: str) -> str:
    return output.strip().rpartition('\n')[2] or 'no reason given'


@contextlib.contextmanager
def lock():
    """Let one set-up of this user run at a time; the kernel drops the lock when its processes end."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / 'lock', 'w') as file:
        os.set_inheritable(file.fileno(), True)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print('Waiting for another set-up on this machine to finish')
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def wheel_key(torch: str, operators: str) -> str:
    """Name of the cache folder of an mmcv wheel: all that its binary code depends on."""
    mmcv = requirements('mmcv')['mmcv'].split('==')[1]
    return f'mmcv-{mmcv}-cp3{sys.version_info[1]}-{platform.machine()}-torch-{torch}-{operators}'


def install_mmcv(prefix: Path) -> None:
    """Install mmcv with its compiled operators, from the cache if it holds the wheel for this torch."""
    probe = (
        'import cv2, json, torch; from torch.utils.cpp_extension import CUDA_HOME; '
        'gpus = {"%d.%d" % torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}; '
        'print(json.dumps([torch.__version__, torch.version.cuda, CUDA_HOME, sorted(gpus)]))'
    )
    code, output = capture(sys.executable, '-c', probe)
    if code:
        remedy = f'If a library is missing: sudo apt-get install libgl1 libglib2.0-0, and {AGAIN}.'
        raise SetupError(f'torch or OpenCV cannot be imported: {last_line(output)}', remedy)
    torch, cuda, cuda_home, gpus = json.loads(last_line(output))
    operators, variables = choose_operators(cuda, cuda_home, gpus)

    origin = unquote(direct_url('mmcv').get('url', ''))
    fits = f'/{wheel_key(torch, "")}' in origin and (operators == 'cpu' or operators in origin)
    somebody_elses = '/mmtwins/mmcv-' not in origin
    wanted = requirements('mmcv')['mmcv']
    if f'mmcv=={version("mmcv")}' == wanted and (fits or somebody_elses) and not mmcv_failure():
        return
    folder = CACHE / wheel_key(torch, operators)
    wheel = next(folder.glob('mmcv-*.whl'), None) or build_mmcv(folder, variables)
    pip(prefix, f'Installing {wanted}', '--no-deps', '--force-reinstall', str(wheel))
    failure = mmcv_failure()
    if failure:
        raise SetupError(f'{wheel} does not work: {failure}', f'Remove that file and {AGAIN} to build it anew.')


def mmcv_failure() -> str:
    """Why mmcv's compiled operators do not work, or nothing. Of two equal boxes NMS must keep one."""
    boxes = 'torch.tensor([[0., 0., 8., 8.]] * 2), torch.tensor([0.5, 0.4])'
    code, output = capture(
        sys.executable, '-c', f'import torch; from mmcv.ops import nms; assert len(nms({boxes}, 0.5)[1]) == 1'
    )
    return last_line(output) if code else ''


def choose_operators(cuda: str | None, cuda_home: str | None, gpus: list[str]) -> tuple[str, dict[str, str]]:
    """The operators' part of the cache key and the build's variables, by torch's CUDA, CUDA's folder and the GPUs."""
    cpu = ('cpu', {'FORCE_CUDA': '0', 'CUDA_VISIBLE_DEVICES': ''})
    if not cuda or os.environ.get('FORCE_CUDA') == '0':
        return cpu
    nvcc = Path(cuda_home or os.devnull) / 'bin' / 'nvcc'
    release = re.search(r'release (\d+)(\.\d+)', capture(str(nvcc), '--version')[1] if os.access(nvcc, os.X_OK) else '')
    architectures = os.environ.get('TORCH_CUDA_ARCH_LIST') or ';'.join(gpus)
    obstacle = '' if architectures else 'no GPU is visible, and TORCH_CUDA_ARCH_LIST names none'
    if not release or release.group(1) != cuda.split('.')[0]:
        obstacle = f'there is no nvcc of CUDA {cuda}, for which torch is built'
    if obstacle:
        print(f'mmcv gets its CPU operators only: {obstacle}.')
        print(
            'A GPU then trains segmentation but not detection. To change that, run make setup where nvcc and the GPU are.'
        )
        return cpu
    key = re.sub(r'[^0-9A-Za-z.+]+', '_', architectures)
    return f'cu{"".join(release.groups())}-{key}', {'FORCE_CUDA': '1', 'TORCH_CUDA_ARCH_LIST': architectures}


def build_mmcv(folder: Path, variables: dict[str, str]) -> Path:
    """Build mmcv's wheel into the cache folder, where it appears only when whole."""
    check_compiler()
    build, log = folder / 'build', folder / 'build.log'
    shutil.rmtree(build, ignore_errors=True)  # of a set-up that was killed
    build.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    gigabytes = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2**30
    jobs = int(os.environ.get('MAX_JOBS') or max(1, min(len(os.sched_getaffinity(0)), gigabytes // 2)))
    time = f'about {-(-24 // jobs)} minutes' if variables['FORCE_CUDA'] == '0' else 'half an hour or more'
    # --no-cache-dir: pip's own cache would hand out a wheel built for another torch
    options = ['--verbose', '--no-deps', '--no-build-isolation', '--no-binary=mmcv', '--no-cache-dir']
    command = [sys.executable, '-m', 'pip', 'wheel', *options, '--wheel-dir', str(build), *files('mmcv')]
    variables = {**variables, 'MMCV_WITH_OPS': '1', 'MAX_JOBS': str(jobs), 'TMPDIR': str(build)}
    try:
        code, output = run(f'Building mmcv, once for this torch: {time} on {jobs} cores', command, log, **variables)
        wheel = next(build.glob('mmcv-*.whl'), None)
        if code or not wheel:
            raise pip_failure(output, log)
        return wheel.replace(folder / wheel.name)
    finally:
        shutil.rmtree(build, ignore_errors=True)


def run_command(prefix: Path, command: list[str]) -> None:
    """Replace this process by the command, with the environment's programs and the checkout's mmtwins first."""
    os.environ['PATH'] = os.pathsep.join([str(prefix / 'bin'), os.environ.get('PATH', os.defpath)])
    os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    sys.stdout.flush()
    os.execvp(command[0], command)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
