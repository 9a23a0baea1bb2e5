"""Examine this machine for `mmtwins doctor`: what works, what commands lack, and how to get it."""

import glob
import platform
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .. import __version__
from ..installing import how_to_install, package_of
from .bars import follow
from .probes import PROBES, cache_folders, describe_cache, free_bytes, probe
from .table import COMMANDS

SECONDS = 180.0  # for one trial; the first import of torch from a slow disk takes long
# Modules to import, with the extra of setup.py that installs them.
MODULES = {
    'torch': 'all',
    'mmengine': 'all',
    'numpy': 'all',
    'rich': 'all',
    'yaml': 'all',
    'safetensors': 'all',
    'huggingface_hub': 'all',
    'cv2': 'all',
    'mmcv': 'all',
    'mmseg': 'seg',
    'mmdet': 'det',
    'mmpretrain': 'cls',
    'pycocotools': 'det',
    'matplotlib': 'all',
    'pydantic': 'seg',
    'gradio': 'app',
    'onnx': 'export',
    'onnxscript': 'export',
    'onnxruntime': 'export',
    'av': 'video',
    'rich_argparse': 'all',
    'argcomplete': 'all',
}
OPTIONAL = (
    'mmpretrain',
    'gradio',
    'onnx',
    'onnxscript',
    'onnxruntime',
    'av',
    'pydantic',
    'rich_argparse',
    'argcomplete',
)
BASE = ('torch', 'mmengine', 'numpy', 'safetensors', 'huggingface_hub', 'backbone')
LIBRARY = (*BASE, 'cv2', 'mmcv', 'mmcv operators', 'matplotlib')
# What each command needs; one element of an inner tuple is enough.
NEEDS: dict[str, tuple] = {
    'list': ('rich', 'yaml'),
    'doctor': (),
    'convert': ('torch', 'safetensors'),
    'benchmark': (*BASE, 'matplotlib'),
    'check-run': (*BASE, 'matplotlib'),
    'cost': (*BASE, 'matplotlib'),
    **dict.fromkeys(('train', 'test'), (*LIBRARY, ('mmseg', 'mmdet', 'mmpretrain'))),
    'check-data': (*LIBRARY, ('mmseg', 'mmdet'), 'pydantic', 'pycocotools'),
    'export': (*LIBRARY, ('mmseg', 'mmdet'), 'onnx', 'onnxscript'),
    'app': (*LIBRARY, ('mmseg', 'mmdet'), 'gradio'),
    'demo': (*LIBRARY, 'mmseg', 'mmdet', 'pycocotools'),
}
ESSENTIAL = ('train', 'test', 'predict')


def examine() -> dict[str, Any]:
    """Try everything.

    Returns:
        What was found, ready for JSON. ``tried``: for each module of :data:`MODULES` and each trial of
        :data:`mmtwins.commands.probes.PROBES` what was found, or its ``failure``. ``commands``: what each command lacks.
        ``remedies``: a sentence for each thing that does not work. ``ready``: whether training and predictions can run.
    """
    tried = try_out([*MODULES, *PROBES])
    working = {name for name, found in tried.items() if 'failure' not in found}
    commands = {name: _lacking(NEEDS.get(name, (*LIBRARY, ('mmseg', 'mmdet'))), working) for name in COMMANDS}
    caches = {name: _describe(folder) for name, folder in cache_folders().items()}
    folders = list(cache_folders().values())
    with suppress(FileNotFoundError):  # another program has deleted it
        folders.insert(0, Path.cwd())
    return {
        'mmtwins': __version__,
        'folder': str(Path(__file__).resolve().parents[1]),
        'python': platform.python_version(),
        'system': platform.platform(),
        'tried': tried,
        'commands': commands,
        'caches': caches,
        'free_bytes': {str(folder): free_bytes(folder) for folder in folders},
        'remedies': list(_remedies(tried)),
        'ready': not any(commands[name] for name in ESSENTIAL),
    }


def try_out(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Run trials, each in a child process; a trial that dies or hangs does not affect the others.

    Args:
        names: Names of trials and modules, see :func:`mmtwins.commands.probes.probe`.

    Returns:
        What was found, by name; of what does not work ``failure``, the reason, and ``missing``, whether it is not installed.
    """
    from ..datasets.isolation import map_isolated

    found: dict[str, dict[str, Any]] = {}
    for index, outcome in follow(map_isolated(probe, names, 1, SECONDS), 'trying', len(names)):
        found[names[index]] = _judge(names[index], outcome.value, outcome.failure)
    return {name: found[name] for name in names}


def _judge(name: str, value: Any, failure: str) -> dict[str, Any]:
    if not failure:
        return value
    first = failure.strip().splitlines()[0].replace('ends the process that reads it', 'ends the process')
    return {'failure': first, 'missing': first.startswith(f"ModuleNotFoundError: No module named '{name}'")}


def _lacking(needs: Iterable[str | tuple[str, ...]], working: set[str]) -> list[str]:
    """The needs that do not work."""
    lacking = []
    for need in needs:
        choices = need if isinstance(need, tuple) else (need,)
        if not working & set(choices):
            lacking.append(' or '.join(choices))
    return lacking


def _describe(folder: Path) -> dict[str, Any]:
    try:
        return describe_cache(folder)
    except OSError as error:
        return {'folder': str(folder), 'failure': str(error)}


def _remedies(tried: dict[str, dict[str, Any]]) -> Iterable[str]:
    """A sentence for each thing that does not work, with the command that installs it."""
    for name, extra in MODULES.items():
        found = tried[name]
        if name != 'torch' and found.get('failure') == tried['torch'].get('failure', ''):
            continue  # torch is the cause, and has a remedy of its own
        if found.get('missing'):
            yield f'{name} is not installed: {how_to_install(extra)}'
        elif 'failure' in found:
            yield f'{name} is installed but cannot be imported ({found["failure"]}): {how_to_install(extra)}'
    works = {name: 'failure' not in found for name, found in tried.items()}
    if works['mmcv'] and not works['mmcv operators']:
        yield (
            f"mmcv's compiled operators do not run ({tried['mmcv operators']['failure']}): they must be built for this torch, "
            f'`pip uninstall {package_of("mmcv")}`, then {how_to_install("all")}'
        )
    elif works['mmcv operators'] and not works['mmcv operators on the GPU']:
        yield (
            f"mmcv's operators do not run on the GPU ({tried['mmcv operators on the GPU']['failure']}), which Mask R-CNN needs "
            f'there: `pip uninstall {package_of("mmcv")}`, and with `nvcc` of the CUDA that torch is built for and FORCE_CUDA=1 '
            f'{how_to_install("all")}'
        )
    if works['torch'] and works['mmengine'] and not works['backbone']:
        yield f'the backbone does not run ({tried["backbone"]["failure"]}): {how_to_install("all")}'
    has_device = bool(glob.glob('/dev/nvidia[0-9]*'))
    if works['GPU'] and has_device and not tried['GPU']['gpus']:
        build = tried['GPU']['cuda_build']
        reason = f'torch is built for CUDA {build} and does not find it' if build else 'torch is built for CPUs only'
        yield (
            f'this machine has an NVIDIA GPU, but {reason}: install the torch build for the CUDA of your driver '
            '(`nvidia-smi` shows it), see pytorch.org'
        )
