"""mmcv for the set-up. PyPI has no wheel: it is built from its source distribution, mended where it must be, and kept."""

from __future__ import annotations  # as in setup_steps.py

import json
import os
import platform
import re
import shlex
import shutil
import sys
import sysconfig
from importlib import util
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import setup_steps as steps
from setup_steps import AGAIN, PYTHON, SetupError


class Mend(NamedTuple):
    """A change of mmcv's setup.py: nothing without the fault, and refused where the fault is written in another way."""

    why: str
    python: tuple[int, int]  # the first Python and torch that need it
    torch: tuple[int, int]
    fault: str
    old: str
    new: str


MENDS = (
    Mend(
        why="torch 2.14 and newer compile as C++20 only; mmcv 2.1.0's and onedl-mmcv 2.3.6's setup.py ask for C++17",
        python=(3, 0),
        torch=(2, 14),
        fault='c++17',
        old="'-std=c++17'",
        new="'-std=c++20'",
    ),
    Mend(
        why="on Python 3.13 and newer, locals() lacks what exec() defined; mmcv 2.1.0's setup.py finds its version so",
        python=(3, 13),
        torch=(0, 0),
        fault="locals()['__version__']",
        old="exec(compile(f.read(), version_file, 'exec'))\n    return locals()['__version__']",
        new="scope = {}\n        exec(compile(f.read(), version_file, 'exec'), scope)\n    return scope['__version__']",
    ),
)

# The compiler of the build. Before the first file, it compiles the header that most files include first, with the same
# flags. GCC then reads that in place of the header, if the flags of a file are the same, and gives the same objects.
HEADER = 'mmcv/ops/csrc/common/pytorch_cpp_helper.hpp'
COMPILER = """#!/bin/sh
case " $* " in *" -c "*.cpp*)
    if mkdir {header}.once 2>/dev/null; then (
        for word; do
            shift
            case $word in -MMD | -MF | *.d | -c | *.cpp | -o | *.o) ;; *) set -- "$@" "$word" ;; esac
        done
        {compiler} "$@" -x c++-header {header} -o {header}.new && mv {header}.new {header}.gch
    ) >/dev/null 2>&1; fi ;;
esac
exec {compiler} "$@"
"""

# MMSegmentation 1.2.2 and MMDetection 3.3.0 refuse this mmcv and newer; the names of the bound in their __init__.py.
TOO_NEW = (2, 2)
BOUNDS = {'mmseg': 'MMCV_MAX', 'mmdet': 'mmcv_maximum_version'}


def mend(source: Path, torch: str) -> None:
    """Change the setup.py of an unpacked mmcv so that it builds with this Python and torch.

    Args:
        source: Folder of the unpacked source distribution.
        torch: Version of the installed torch, such as ``2.14.1+cpu``.

    Raises:
        SetupError: If the file has a fault, but not in the words that are known.
    """
    file = source / 'setup.py'
    text = file.read_text()
    for one in MENDS:
        needed = sys.version_info[:2] >= one.python and release(torch) >= one.torch
        if not needed or one.fault not in text:
            continue
        if one.old not in text:
            reason = f'mmcv cannot be mended, because its setup.py is not the known one ({one.why}).'
            raise SetupError(reason, f'requirements/ name the known version, {"==".join(steps.mmcv_pin())}.')
        print(f'Mending setup.py of mmcv: {one.why}')
        text = text.replace(one.old, one.new)
    file.write_text(text)


def release(version: str) -> tuple[int, int]:
    """Major and minor number of a version."""
    major, minor = re.match(r'(\d+)\.(\d+)', version).groups()
    return int(major), int(minor)


def check_compiler() -> None:
    """Refuse a machine that cannot build mmcv."""
    compiler = os.environ.get('CXX') or 'c++'
    if not shutil.which(shlex.split(compiler)[0]):
        raise SetupError(f'There is no C++ compiler ({compiler}); mmcv needs one.', 'sudo apt-get install g++')
    if not (Path(sysconfig.get_path('include')) / 'Python.h').exists():
        raise SetupError("Python's headers (Python.h) are missing.", f'sudo apt-get install {PYTHON}-dev')


def too_new() -> str:
    """The version of OpenMMLab's mmcv that is there, if their other packages refuse it."""
    found = steps.version('mmcv')
    return found if found and release(found) >= TOO_NEW else ''


def refuse_too_new() -> None:
    """Refuse an mmcv that MMSegmentation and MMDetection refuse, unless the user said that the bound be raised."""
    found = too_new()
    if found and os.environ.get('MMCV_BOUND') != 'raise':
        reason = f'mmcv {found} is there. MMSegmentation 1.2.2 and MMDetection 3.3.0 refuse mmcv 2.2.0 and newer.'
        ours = f'{sys.executable} -m pip uninstall mmcv, and the set-up builds {"==".join(steps.mmcv_pin())}'
        raised = f'make setup MMCV_BOUND=raise keeps {found} and raises the bound in their __init__.py; not tested here'
        raise SetupError(reason, f'Either {ours}. Or {raised}.')


def raise_bound(found: str) -> None:
    """Let the installed MMSegmentation and MMDetection take the mmcv that is there."""
    major, minor = release(found)
    bound = f'{major}.{minor + 1}.0'
    for package, name in BOUNDS.items():
        file = Path(util.find_spec(package).origin)
        text, times = re.subn(
            rf"(?m)^{name} = '[\d.]+'.*$", f"{name} = '{bound}'  # MMCV_BOUND=raise", file.read_text()
        )
        if times != 1:
            raise SetupError(
                f'{file} has no line {name} = ..., so its bound is not raised.', f'pip uninstall mmcv, and {AGAIN}.'
            )
        new = file.with_name('__init__.py.new')  # written anew: the file may be a link into the cache of an installer
        new.write_text(text)
        new.replace(file)
    print(f'MMSegmentation and MMDetection now take mmcv before {bound}: mmcv {found} is kept.')


def wheel_key(torch: str, operators: str) -> str:
    """Name of the cache folder of an mmcv wheel: all that its binary code depends on."""
    mmcv = '-'.join(steps.mmcv_pin())
    return f'{mmcv}-cp3{sys.version_info[1]}-{platform.machine()}-torch-{torch}-{operators}'


def needs_compiler() -> bool:
    """Whether mmcv may have to be built: it is not installed, and the cache has no wheel for this Python."""
    installed = steps.version(steps.mmcv_pin()[0])
    return not installed and not [*steps.CACHE.glob(f'{wheel_key("*", "*")}/*mmcv-*.whl')]


def install_mmcv(prefix: Path) -> None:
    """Install mmcv with its compiled operators, from the cache if it holds the wheel for this torch."""
    probe = (
        'import cv2, json, torch; from torch.utils.cpp_extension import CUDA_HOME; '
        'gpus = {"%d.%d" % torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}; '
        'print(json.dumps([torch.__version__, torch.version.cuda, CUDA_HOME, sorted(gpus)]))'
    )
    code, output = steps.capture(sys.executable, '-c', probe)
    if code:
        remedy = f'If a library is missing: sudo apt-get install libgl1 libglib2.0-0, and {AGAIN}.'
        raise SetupError(f'torch or OpenCV cannot be imported: {steps.last_line(output)}', remedy)
    if too_new():
        raise_bound(too_new())
        if mmcv_failure():
            raise SetupError(f'mmcv {too_new()} does not work: {mmcv_failure()}', f'pip uninstall mmcv, and {AGAIN}.')
        return
    torch, cuda, cuda_home, gpus = json.loads(steps.last_line(output))
    operators, variables = choose_operators(cuda, cuda_home, gpus)

    name, number = steps.mmcv_pin()
    origin = unquote(steps.direct_url(name).get('url', ''))
    fits = f'/{wheel_key(torch, "")}' in origin and (operators == 'cpu' or operators in origin)
    somebody_elses = f'/mmtwins/{name}-' not in origin
    if steps.version(name) == number and (fits or somebody_elses) and not mmcv_failure():
        return
    folder = steps.CACHE / wheel_key(torch, operators)
    wheel = next(folder.glob('*mmcv-*.whl'), None) or build_mmcv(folder, torch, variables)
    steps.pip(prefix, f'Installing {name}=={number}', '--no-deps', '--force-reinstall', str(wheel))
    failure = mmcv_failure()
    if failure:
        raise SetupError(f'{wheel} does not work: {failure}', f'Remove that file and {AGAIN} to build it anew.')


def mmcv_failure() -> str:
    """Why mmcv's compiled operators do not work, or nothing. Of two equal boxes NMS must keep one."""
    boxes = 'torch.tensor([[0., 0., 8., 8.]] * 2), torch.tensor([0.5, 0.4])'
    code, output = steps.capture(
        sys.executable, '-c', f'import torch; from mmcv.ops import nms; assert len(nms({boxes}, 0.5)[1]) == 1'
    )
    return steps.last_line(output) if code else ''


def choose_operators(cuda: str | None, cuda_home: str | None, gpus: list[str]) -> tuple[str, dict[str, str]]:
    """The operators' part of the cache key and the build's variables, by torch's CUDA, CUDA's folder and the GPUs."""
    cpu = ('cpu', {'FORCE_CUDA': '0', 'CUDA_VISIBLE_DEVICES': ''})
    if not cuda or os.environ.get('FORCE_CUDA') == '0':
        return cpu
    nvcc = Path(cuda_home or os.devnull) / 'bin' / 'nvcc'
    output = steps.capture(str(nvcc), '--version')[1] if os.access(nvcc, os.X_OK) else ''
    found = re.search(r'release (\d+)(\.\d+)', output)
    architectures = os.environ.get('TORCH_CUDA_ARCH_LIST') or ';'.join(gpus)
    obstacle = '' if architectures else 'no GPU is visible, and TORCH_CUDA_ARCH_LIST names none'
    if not found or found.group(1) != cuda.split('.')[0]:
        obstacle = f'there is no nvcc of CUDA {cuda}, for which torch is built'
    if obstacle:
        print(f'mmcv gets its CPU operators only: {obstacle}.')
        print(
            'A GPU then trains segmentation but not detection. To change that, run make setup where nvcc and the GPU are.'
        )
        return cpu
    key = re.sub(r'[^0-9A-Za-z.+]+', '_', architectures)
    return f'cu{"".join(found.groups())}-{key}', {'FORCE_CUDA': '1', 'TORCH_CUDA_ARCH_LIST': architectures}


def build_mmcv(folder: Path, torch: str, variables: dict[str, str]) -> Path:
    """Build mmcv's wheel into the cache folder, where it appears only when whole."""
    check_compiler()
    build, log = folder / 'build', folder / 'build.log'
    shutil.rmtree(build, ignore_errors=True)  # of a set-up that was killed
    build.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    gigabytes = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2**30
    jobs = int(os.environ.get('MAX_JOBS') or max(1, min(len(os.sched_getaffinity(0)), gigabytes // 2)))
    time = f'about {-(-24 // jobs)} minutes' if variables['FORCE_CUDA'] == '0' else 'half an hour or more'
    variables = {**variables, 'MMCV_WITH_OPS': '1', 'MAX_JOBS': str(jobs), 'TMPDIR': str(build)}
    # --no-cache-dir: pip's own cache would hand out a wheel built for another torch
    pip = [sys.executable, '-m', 'pip', 'wheel', '--verbose', '--no-deps', '--no-build-isolation', '--no-cache-dir']
    try:
        source = unpack_mmcv(build, log, variables)
        mend(source, torch)
        variables.update(compile_header_once(build, source))
        command = [*pip, '--wheel-dir', str(build), str(source)]
        title = f'Building mmcv, once for this torch: {time} on {jobs} cores'
        code, output = steps.run(title, command, log, **variables)
        wheel = next(build.glob('*mmcv-*.whl'), None)
        if code or not wheel:
            raise steps.pip_failure(output, log)
        return wheel.replace(folder / wheel.name)
    finally:
        shutil.rmtree(build, ignore_errors=True)


def compile_header_once(build: Path, source: Path) -> dict[str, str]:
    """The variables that name COMPILER, if there is the header, and GCC."""
    compiler, header = os.environ.get('CXX') or 'c++', source / HEADER
    if not header.exists() or 'Free Software' not in steps.capture(*shlex.split(compiler), '--version')[1]:
        return {}
    script = build / 'c++'
    script.write_text(COMPILER.format(compiler=compiler, header=shlex.quote(str(header))))
    script.chmod(0o755)
    return {'CXX': str(script)}


def unpack_mmcv(build: Path, log: Path, variables: dict[str, str]) -> Path:
    """Let pip fetch and unpack mmcv's source distribution in a temporary folder.

    pip then asks its setup.py for the package's name, which fails where that file needs mending. So the exit code does
    not count, and --no-clean keeps what pip unpacked.
    """
    name, number = steps.mmcv_pin()
    command = [sys.executable, '-m', 'pip', 'download', '--no-clean', '--no-deps', '--no-build-isolation']
    command += ['--no-cache-dir', f'--no-binary={name}', '--dest', str(build), f'{name}=={number}']
    output = steps.run(f'Fetching {name} {number}', command, log, **variables)[1]
    sources = [path.parent for path in build.rglob('setup.py') if (path.parent / 'mmcv').is_dir()]
    if not sources:
        raise steps.pip_failure(output, log)
    return sources[0]
