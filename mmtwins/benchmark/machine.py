"""The machine that a measurement comes from."""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .. import __version__
from .peers import PEERS


def processor_name() -> str:
    """The CPU as the system names it."""
    info = Path('/proc/cpuinfo')
    found = re.search(r'model name\s*:\s*(.+)', info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def describe_machine(device: str) -> dict[str, str | int]:
    """Describe processor or GPU, threads and versions.

    Args:
        device: Such as ``'cpu'`` or ``'cuda:0'``.

    Returns:
        Values by name.
    """
    on_gpu = device.startswith('cuda')
    name = torch.cuda.get_device_name(device) if on_gpu else processor_name()
    machine: dict[str, str | int] = dict(
        device=name, cpus=os.cpu_count() or 0, threads=torch.get_num_threads(), python=platform.python_version()
    )
    machine.update(torch=torch.__version__, mmtwins=__version__)
    if on_gpu:
        gpu = torch.cuda.get_device_properties(device)
        machine['memory'] = f'{gpu.total_memory / 2**30:.0f} GiB'
        machine['compute capability'] = f'{gpu.major}.{gpu.minor}'
        machine['CUDA'], machine['cuDNN'] = str(torch.version.cuda), str(torch.backends.cudnn.version())
    for package in PEERS.values():
        try:
            machine[package] = version(package)
        except PackageNotFoundError:
            continue
    return machine
