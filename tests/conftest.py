import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

# Share the cores among the workers of pytest-xdist. Torch reads this when it is imported, and so do the tools' processes.
WORKERS = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', 1))
os.environ.setdefault('OMP_NUM_THREADS', str(max(1, len(os.sched_getaffinity(0)) // WORKERS)))


@pytest.fixture(scope='session')
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few generated images in the layouts of ADE20K (``ade``) and COCO (``coco``)."""
    pytest.importorskip('cv2')
    from mmtwins.demo.data import generate_toy_data

    return Path(generate_toy_data(tmp_path_factory.mktemp('data') / 'toy', num_train=8, num_val=4))


@pytest.fixture
def run_tool(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Run ``tools/NAME ARGS`` as a user would, from a folder that is not the checkout."""

    def run(name: str, *args: object) -> subprocess.CompletedProcess:
        command = [sys.executable, REPOSITORY / 'tools' / name, *args]
        return subprocess.run(
            [str(part) for part in command],
            cwd=tmp_path,
            env={**os.environ, 'PYTHONPATH': str(REPOSITORY)},
            capture_output=True,
            text=True,
        )

    return run
