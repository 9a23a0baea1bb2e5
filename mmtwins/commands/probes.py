"""The trials of `mmtwins doctor`. Each function tries one thing, in a child process, and returns what it found."""

import importlib
import importlib.metadata
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Found = dict[str, Any]


def version_of(module: str) -> Found:
    """Import a module, and return its ``version``."""
    imported = importlib.import_module(module)
    version = getattr(imported, '__version__', None)
    if version is None:
        names = importlib.metadata.packages_distributions().get(module, [module])
        version = importlib.metadata.version(names[0])
    return {'version': str(version)}


def mmcv_operators() -> Found:
    """Run mmcv's nms and roi_align on the CPU, and return the ``device`` that they ran on."""
    return _run_operators('cpu')


def mmcv_gpu_operators() -> Found:
    """Run mmcv's nms and roi_align on the GPU, if there is one."""
    import torch

    if not torch.cuda.is_available():
        return {'skipped': 'there is no GPU'}
    return _run_operators('cuda')


def _run_operators(device: str) -> Found:
    import torch
    from mmcv.ops import nms, roi_align

    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 7.0], [20.0, 20.0, 30.0, 30.0]], device=device)
    _, kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7], device=device), 0.5)
    if kept.tolist() != [0, 2]:
        raise RuntimeError(f'nms keeps boxes {kept.tolist()} where it must keep [0, 2]')
    maps = torch.ones(1, 1, 16, 16, device=device)
    rois = torch.tensor([[0.0, 2.0, 2.0, 10.0, 10.0]], device=device)
    pooled = roi_align(maps, rois, (2, 2), 1.0, 0, 'avg', True)
    if pooled.shape != (1, 1, 2, 2) or not torch.allclose(pooled, torch.ones_like(pooled)):
        raise RuntimeError(f'roi_align of a map of ones gives {pooled.flatten().tolist()}')
    return {'device': device}


def gpu() -> Found:
    """Find the ``gpus`` with their memory in GB, and ``cuda_build``, the CUDA that torch is built for (None: CPUs only)."""
    import torch

    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        gpus.append({'name': properties.name, 'memory_gb': round(properties.total_memory / 1e9, 1)})
    return {'cuda_build': torch.version.cuda, 'gpus': gpus}


def backbone() -> Found:
    """Run a small backbone, and return the ``shapes`` of its maps."""
    import torch

    from ..models.backbone import TwinsSVTBackbone

    arch = dict(embed_dims=(32, 32, 32, 32), depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), mlp_ratios=(1, 1, 1, 1))
    with torch.no_grad():
        maps = TwinsSVTBackbone(arch=arch).eval()(torch.zeros(1, 3, 32, 32))
    if not all(torch.isfinite(one).all() for one in maps):
        raise RuntimeError('the backbone computes values that are not finite')
    return {'shapes': [list(one.shape) for one in maps]}


PROBES: dict[str, Callable[[], Found]] = {
    'mmcv operators': mmcv_operators,
    'mmcv operators on the GPU': mmcv_gpu_operators,
    'GPU': gpu,
    'backbone': backbone,
}


def probe(name: str) -> Found:
    """Run one of :data:`PROBES`, or import a module, see :func:`version_of`.

    Args:
        name: Key of :data:`PROBES`, or name of a module.

    Returns:
        What was found.

    Raises:
        Exception: Whatever the trial raises: what it tries does not work.
    """
    return PROBES[name]() if name in PROBES else version_of(name)


def cache_folders() -> dict[str, Path]:
    """The folders in which the Hugging Face hub, torch and our checks of data keep files, by name."""
    home = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    hugging_face = os.environ.get('HF_HOME') or f'{home}/huggingface'
    folders = {
        'Hugging Face hub': os.environ.get('HF_HUB_CACHE') or f'{hugging_face}/hub',
        'torch': f'{os.environ.get("TORCH_HOME") or f"{home}/torch"}/hub/checkpoints',
        'checks of data': f'{home}/mmtwins/data',
    }
    # Unlike Path.expanduser, this one lets ~ stand where nobody knows the home of the user.
    return {name: Path(os.path.expanduser(folder)) for name, folder in folders.items()}


def describe_cache(folder: Path) -> Found:
    """Measure a cache: its ``folder``, ``bytes`` in total, and bytes of its ``entries`` that are not empty, largest first."""
    entries = {}
    for entry in folder.iterdir() if folder.is_dir() else ():
        size = _size_of(entry)
        if size:
            inside = [file.name for file in entry.iterdir() if _size_of(file)] if entry.is_dir() else []
            entries[f'{entry.name}/{inside[0]}' if len(inside) == 1 else entry.name] = size
    largest = sorted(entries.items(), key=lambda item: -item[1])
    return {'folder': str(folder), 'bytes': sum(entries.values()), 'entries': dict(largest)}


def _size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links count nothing."""
    if path.is_symlink():
        return 0
    if not path.is_dir():
        return path.stat().st_size
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            file = Path(folder, name)
            if not file.is_symlink():
                try:
                    total += file.stat().st_size
                except OSError:  # it has gone meanwhile
                    continue
    return total


def free_bytes(folder: Path) -> int | None:
    """Free bytes on the disk of a folder, which need not exist; None if the system does not tell."""
    for existing in (folder.absolute(), *folder.absolute().parents):
        if existing.is_dir():
            try:
                return shutil.disk_usage(existing).free
            except OSError:
                return None
    return None
