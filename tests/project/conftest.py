"""The set-up's modules, loaded anew for each test, with .venv and the cache in a temporary folder."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
VARIABLES = ('VIRTUAL_ENV', 'CONDA_PREFIX', 'PYTHON', 'STACK', 'MMCV_BOUND', 'CXX', 'MAX_JOBS', 'FORCE_CUDA')
VARIABLES += ('TORCH_CUDA_ARCH_LIST',)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/setup_environment.py as a module; no variable is in its way."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.syspath_prepend(str(TOOLS))
    for name in ('setup_steps', 'setup_mmcv', 'setup_environment'):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module('setup_environment')
    monkeypatch.setattr(module, 'VENV', tmp_path / 'checkout' / '.venv')
    monkeypatch.setattr(module.steps, 'CACHE', tmp_path / 'cache')
    return module


@pytest.fixture
def steps(script: ModuleType) -> ModuleType:
    """tools/setup_steps.py, as the script sees it."""
    return script.steps


@pytest.fixture
def setup_mmcv(script: ModuleType) -> ModuleType:
    """tools/setup_mmcv.py, as the script sees it."""
    return script.setup_mmcv


@pytest.fixture
def executable() -> Callable[..., Path]:
    """Writes a shell script and makes it executable."""

    def write(path: Path, text: str = 'exit 0') -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#!/bin/sh\n{text}\n')
        path.chmod(0o755)
        return path

    return write
