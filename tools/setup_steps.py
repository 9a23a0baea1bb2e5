"""Steps of the set-up: commands with their logs, pip, and what requirements/ asks for. Runs on a bare Python."""

from __future__ import annotations  # Python 3.8 and 3.9 must be able to read this file, to say that they are too old

import contextlib
import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'mmtwins'
STATE = 'mmtwins-setup'  # folder in the environment: done.json, unfinished, constraints.txt, pip.log
NEVER_REPLACED = ('torch', 'torchvision', 'torchaudio', 'triton', 'numpy')
PYTHON = f'python3.{sys.version_info[1]}'
AGAIN = 'run the same command again'
# The maintained forks of the stack onedl, by the names of OpenMMLab's packages. requirements/onedl.txt has the versions.
FORKS = {
    'mmengine': 'onedl-mmengine',
    'mmcv': 'onedl-mmcv',
    'mmsegmentation': 'onedl-mmsegmentation',
    'mmdet': 'onedl-mmdetection',
    'openmim': 'onedl-mim',
}
STACKS = {'openmmlab': tuple(FORKS), 'onedl': tuple(FORKS.values())}


class SetupError(Exception):
    """What is wrong, and what to do about it: one line each."""


def stack() -> str:
    """The stack that STACK names, else the one that is there, else OpenMMLab's."""
    named = os.environ.get('STACK', '')
    if named and named not in STACKS:
        raise SetupError(f'There is no STACK={named}.', f'STACK is {" or ".join(STACKS)}.')
    return named or ('onedl' if any(map(version, STACKS['onedl'])) else 'openmmlab')


def refuse_two_stacks(prefix: Path) -> None:
    """Refuse an environment with packages of the other stack."""
    (other,) = {*STACKS} - {stack()}
    found = [f'{name} {version(name)}' for name in STACKS[other] if version(name)]
    if found:
        reason = f'{prefix} has {", ".join(found)}: STACK={other} and STACK={stack()} have the same import names'
        remove = f'{sys.executable} -m pip uninstall {" ".join(STACKS[other])}'
        raise SetupError(f'{reason}, so one environment holds one of them.', f'Use another environment, or: {remove}')


def requirements(name: str) -> dict[str, str]:
    """The lines of requirements/NAME.txt by package name; those of the forks where the stack has them."""
    forks = read_requirements('onedl') if stack() == 'onedl' else {}
    lines = {FORKS[one] if forks and one in FORKS else one: line for one, line in read_requirements(name).items()}
    return {one: forks.get(one, line) for one, line in lines.items()}


def read_requirements(name: str) -> dict[str, str]:
    """The lines of requirements/NAME.txt by package name, as they stand there."""
    lines = [line.split('#')[0].strip() for line in (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()]
    return {re.match(r'[\w.-]*\w', line).group().lower(): line for line in lines if line}


def mmcv_pin() -> tuple[str, str]:
    """Name and version of the stack's mmcv."""
    (line,) = requirements('mmcv').values()
    name, _, number = line.partition('==')
    return name, number


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
