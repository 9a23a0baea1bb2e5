"""Fixtures that many tests share: generated data, checkpoints, and the tools as a user calls them."""

import gc
import io
import logging
import os
import random
import runpy
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.device import utils as devices
from mmengine.registry import DefaultScope
from mmengine.utils import ManagerMixin
from server import Server, serve

REPOSITORY = Path(__file__).parents[1]
CallTool = Callable[..., subprocess.CompletedProcess]

# Share the cores among the workers of pytest-xdist, and the processes that they start. Workers inherit the environment of
# the process that starts them, so that one must not set the variable for itself.
if 'PYTEST_XDIST_WORKER' in os.environ and 'OMP_NUM_THREADS' not in os.environ:
    threads = max(1, len(os.sched_getaffinity(0)) // int(os.environ['PYTEST_XDIST_WORKER_COUNT']))
    os.environ['OMP_NUM_THREADS'] = str(threads)
    torch.set_num_threads(threads)

# Tests and the processes that they start reach this machine alone: a download fails at once.
os.environ.update(HF_HUB_OFFLINE='1', no_proxy='127.0.0.1,localhost')
os.environ.update({f'{scheme}_proxy': 'http://127.0.0.1:9' for scheme in ('http', 'https', 'all')})

# What else the machine does decides nothing.
os.environ['MMTWINS_KEEP_THREADS'] = '1'

# Processes that tests start find the checkout, and what stands for slow libraries, wherever they run.
os.environ['PYTHONPATH'] = os.pathsep.join(
    filter(None, [str(REPOSITORY), str(REPOSITORY / 'tests' / 'stand_ins'), os.environ.get('PYTHONPATH')])
)


def pytest_xdist_auto_num_workers() -> int:
    """A worker more than there are cores, because some tests wait: for a browser, a server or a lock."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.fixture(scope='module', autouse=True)
def no_garbage_in_modules() -> None:
    """Keep what was imported out of garbage collection, which MMEngine starts for each dataset: a third of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='module', autouse=True)
def no_scope_before_modules() -> None:
    """Without this, modules and fixtures of the session that ran before say where a registry looks first."""
    DefaultScope._instance_dict.clear()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that stands for the Hugging Face hub and any other, and empty caches in ``tmp_path``."""
    constants = pytest.importorskip('huggingface_hub.constants')
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'torch'))
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    with serve(tmp_path / 'served') as server:
        monkeypatch.setattr(constants, 'ENDPOINT', server.url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE
        monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', server.url + template[template.index('/{') :])
        yield server


@pytest.fixture(scope='session')
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few generated images in the layouts of ADE20K (``ade``) and COCO (``coco``)."""
    pytest.importorskip('cv2')
    pytest.importorskip('pycocotools')
    from mmtwins.demo.data import generate_toy_data

    return Path(generate_toy_data(tmp_path_factory.mktemp('data') / 'toy', num_train=8, num_val=4))


@pytest.fixture(scope='session')
def toy_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of the toy segmentor (``'mmseg'``) and detector (``'mmdet'``) with random weights."""
    from toys import save_toy_checkpoint

    folder = tmp_path_factory.mktemp('checkpoints')
    return {library: save_toy_checkpoint(library, folder / f'{library}.pth') for library in ('mmseg', 'mmdet')}


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Two threads of torch: PyTorch hands convolutions of one thread to oneDNN less often, and in bfloat16 loses digits."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip('needs oneDNN')
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def call_tool(tmp_path: Path) -> CallTool:
    """Run ``tools/NAME ARGS`` in this process, from a folder that is not the checkout.

    What a tool changes in the process is restored: working directory, environment, random states, threads, signal
    handlers, and MMEngine's current loggers, scopes, visualizers and message hubs.
    """

    def call(name: str, *args: object) -> subprocess.CompletedProcess:
        path = REPOSITORY / 'tools' / name
        command = [str(part) for part in (path, *args)]
        out, err = io.StringIO(), io.StringIO()
        with _restored_process(tmp_path, command), redirect_stdout(out), redirect_stderr(err):
            try:
                runpy.run_path(str(path), run_name='__main__')
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
                if isinstance(end.code, str):
                    print(end.code, file=sys.stderr)
            except Exception:
                traceback.print_exc()
                code = 1
        return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())

    return call


@contextmanager
def _restored_process(folder: Path, argv: list[str]) -> Iterator[None]:
    """Run with a working directory and a command line, and restore the process afterwards."""
    managers = [ManagerMixin]
    for kind in managers:
        managers += kind.__subclasses__()
    instances = {kind: kind._instance_dict.copy() for kind in managers}
    known = {id(one) for held in instances.values() for one in held.values()}
    signals = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    }
    handlers, level = logging.root.handlers[:], logging.root.level
    environment, old_argv, old_folder = os.environ.copy(), sys.argv, Path.cwd()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    device = devices.DEVICE
    try:
        sys.argv = argv
        os.environ['XDG_CACHE_HOME'] = f'{folder}-cache'  # of checks of data
        os.chdir(folder)
        for kind in managers:  # a new process has none
            kind._instance_dict.clear()
        with warnings.catch_warnings():
            yield
    finally:
        sys.argv = old_argv
        os.chdir(old_folder)
        os.environ.clear()
        os.environ.update(environment)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        torch.set_num_threads(threads)
        torch.set_grad_enabled(grad)
        devices.DEVICE = device
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
        for number, handler in signals.items():
            signal.signal(number, handler)
        seen = list(managers)
        for kind in seen:
            seen += [sub for sub in kind.__subclasses__() if sub not in seen]
        for kind in seen:
            for one in kind._instance_dict.values():
                if isinstance(one, logging.Logger) and id(one) not in known:
                    for handler in one.handlers:
                        handler.close()
            kind._instance_dict.clear()
            kind._instance_dict.update(instances.get(kind, {}))
