#!/usr/bin/env python3
"""Set up an environment for mmtwins once, then run a command in it.

The environment is the active virtual or conda environment, else .venv in the checkout. pip does the work, and a torch
or NumPy that is there is never replaced. mmcv has no wheel on PyPI: it is built once per Python, torch and CUDA, and
the wheel is kept in the user's cache directory. STACK=onedl installs the maintained forks in place of OpenMMLab's packages.
Without a command the set-up always runs; with one, only after a change.
"""

from __future__ import annotations  # Python 3.8 and 3.9 must be able to read this file, to say that they are too old

import argparse
import contextlib
import hashlib
import json
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from importlib import util
from pathlib import Path

import setup_mmcv
import setup_steps as steps
from setup_steps import AGAIN, PYTHON, ROOT, STATE, SetupError

VENV = ROOT / '.venv'
FIRST, LAST = (3, 10), (3, 14)  # the Pythons that mmtwins supports


def main(arguments: list[str]) -> int:
    """Set up, then become the command. Returns the exit code."""
    options, command = arguments, []
    if '--' in arguments:
        options, command = arguments[: arguments.index('--')], arguments[arguments.index('--') + 1 :]
    argparse.ArgumentParser(
        usage='%(prog)s [-h] [-- COMMAND ...]',
        description='Set up the active environment, or .venv in the checkout, then run COMMAND in it.',
        epilog='Variables: PYTHON (of a new .venv), STACK (openmmlab or onedl); '
        'CXX, MAX_JOBS, FORCE_CUDA=0, TORCH_CUDA_ARCH_LIST (to build mmcv).',
    ).parse_args(options)
    sys.stdout.reconfigure(line_buffering=True)
    try:
        steps.stack()  # refuses a wrong name before anything is created
        prefix = find_environment()
        if os.path.realpath(sys.prefix) != os.path.realpath(prefix):
            if prefix == VENV:
                create_venv()
            start_again_in(prefix, arguments)
        check_python()
        if not command or last_set_up(prefix) != describe(prefix):
            with steps.lock():
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
    if not FIRST <= sys.version_info[:2] <= LAST:
        found = f'{sys.executable} is Python {platform.python_version()}; mmtwins needs 3.{FIRST[1]} to 3.{LAST[1]}.'
        leave = f'rm -r {VENV}' if sys.prefix == str(VENV) else 'Leave an active environment (deactivate)'
        raise SetupError(found, f'{leave}, then make demo PYTHON=python3.11')


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
    with steps.lock():
        if not venv_is_there():
            command = [sys.executable, '-m', 'venv', '--without-pip', '--clear', str(VENV)]
            title = f'Creating .venv with Python {platform.python_version()}'
            code, output = steps.run(title, command, steps.CACHE / 'venv.log')
            if code:
                raise SetupError(f'.venv could not be created: {steps.last_line(output)}', f'Try {" ".join(command)}')


def start_again_in(prefix: Path, arguments: list[str]) -> None:
    """Replace this process by the same script in the environment's Python."""
    python, found = str(prefix / 'bin' / 'python'), ''
    with contextlib.suppress(OSError):
        found = steps.last_line(steps.capture(python, '-c', 'import sys; print(sys.prefix)')[1])
    if os.path.realpath(found) != os.path.realpath(prefix):
        remedy = f'rm -r {VENV}' if prefix == VENV else 'Leave it (deactivate, or unset VIRTUAL_ENV CONDA_PREFIX)'
        raise SetupError(f'The environment {prefix} has no working Python of its own.', f'{remedy}, and {AGAIN}.')
    os.execv(python, [python, str(Path(__file__).resolve()), *arguments])


def describe(prefix: Path) -> dict:
    """Everything whose change makes a new set-up necessary, found without importing torch."""
    files = sorted((ROOT / 'requirements').iterdir())
    names = sorted({'mmtwins', *(name for file in files for name in steps.requirements(file.stem))})
    scripts = sorted((ROOT / 'tools').glob('setup_*.py'))
    return {
        'prefix': str(prefix),
        'checkout': str(ROOT),
        'stack': steps.stack(),
        'sources': hashlib.sha256(b''.join(file.read_bytes() for file in [*scripts, *files])).hexdigest(),
        'versions': {name: steps.version(name) for name in names},
    }


def last_set_up(prefix: Path) -> dict:
    """What the last complete set-up noted, or nothing."""
    with contextlib.suppress(OSError, ValueError):
        done = json.loads((prefix / STATE / 'done.json').read_text())
        return done if isinstance(done, dict) else {}
    return {}


def set_up(prefix: Path) -> None:
    """Install what requirements/ asks for into the environment of this Python."""
    steps.refuse_two_stacks(prefix)
    setup_mmcv.refuse_too_new()
    if setup_mmcv.needs_compiler():
        setup_mmcv.check_compiler()  # before anything is downloaded
    state = prefix / STATE
    state.mkdir(exist_ok=True)
    for name in ('done.json', 'pip.log'):
        (state / name).unlink(missing_ok=True)
    forget_cut_off_packages(state / 'unfinished')
    if not steps.version('pip'):
        if not util.find_spec('ensurepip'):
            raise SetupError(f'There is no pip in {prefix}.', f'sudo apt-get install {PYTHON}-venv, and {AGAIN}.')
        steps.run('Installing pip', [sys.executable, '-m', 'ensurepip', '--default-pip'], state / 'pip.log')

    torch = steps.version('torch')
    print(f'Setting up mmtwins in {prefix}' + (f' with its torch {torch}' if torch else ''))
    size = '' if torch else ' and torch (0.2 GB to download for CPU, about 3 GB for CUDA)'
    install(prefix, f'build tools{size}', 'build', *([] if torch else ['torch']))
    packages = ['base', 'seg', 'det', 'mim', 'export', 'app', 'video', 'tests', 'lint']
    install(prefix, f'{steps.stack()} and all that mmtwins and its tests need (about 0.5 GB to download)', *packages)
    setup_mmcv.install_mmcv(prefix)
    # A copy that `pip install .` made serves mim: it stays. The commands of make import the checkout all the same.
    is_copy = steps.version('mmtwins') and not steps.direct_url('mmtwins').get('dir_info', {}).get('editable')
    mmtwins = [] if is_copy else ['--editable', str(ROOT)]
    install(prefix, 'openmim and mmtwins', 'openmim', options=['--no-deps', '--no-build-isolation', *mmtwins])

    (state / 'done.json.new').write_text(json.dumps(describe(prefix), indent=1))
    os.replace(state / 'done.json.new', state / 'done.json')
    (state / 'unfinished').unlink()


def install(prefix: Path, title: str, *names: str, options: Sequence[str] = ()) -> None:
    """Let pip install what requirements/NAME.txt ask for."""
    lines = [line for name in names for line in steps.requirements(name).values()]
    steps.pip(prefix, f'Installing {title}', *lines, *options)


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


def run_command(prefix: Path, command: list[str]) -> None:
    """Replace this process by the command, with the environment's programs and the checkout's mmtwins first."""
    os.environ['PATH'] = os.pathsep.join([str(prefix / 'bin'), os.environ.get('PATH', os.defpath)])
    os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    sys.stdout.flush()
    os.execvp(command[0], command)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
