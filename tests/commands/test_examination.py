"""The examination of a machine survives everything that it tries, and names the remedy."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmtwins.commands import examination
from mmtwins.commands.examination import MODULES, NEEDS, examine, try_out
from mmtwins.commands.probes import PROBES
from mmtwins.commands.table import COMMANDS
from mmtwins.installing import how_to_install

WORKING: dict[str, dict[str, Any]] = {
    **{name: {'version': '1'} for name in MODULES},
    **{name: {} for name in PROBES},
    'GPU': {'cuda_build': None, 'gpus': []},
}
Break = Callable[..., dict[str, Any]]


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> Break:
    """Examine a machine on which everything works but what the test names: a failure, or None for not installed."""

    def run(**broken: str | None) -> dict[str, Any]:
        found = dict(WORKING)
        for name, failure in broken.items():
            name = name if name in MODULES else name.replace('_', ' ')
            missing = failure is None
            assert name in found, name
            text = f"ModuleNotFoundError: No module named '{name}'" if missing else failure
            found[name] = {'failure': text, 'missing': missing}
        monkeypatch.setattr(examination, 'try_out', lambda names: {name: found[name] for name in names})
        monkeypatch.setattr(examination.glob, 'glob', lambda pattern: [])
        return examine()

    return run


def test_a_trial_that_fails_dies_or_ends_the_process_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: BaseException) -> Callable[[], dict]:
        def run() -> dict:
            raise error

        return run

    monkeypatch.setitem(PROBES, 'raises', fail(RuntimeError('two\nlines')))
    monkeypatch.setitem(PROBES, 'leaves', fail(SystemExit(3)))
    monkeypatch.setitem(PROBES, 'stops', lambda: os._exit(7))
    monkeypatch.setitem(PROBES, 'crashes', lambda: os.kill(os.getpid(), signal.SIGKILL))
    monkeypatch.setitem(PROBES, 'works', lambda: {'a': 1})
    monkeypatch.setitem(sys.modules, 'mmcv', None)
    found = try_out(['raises', 'leaves', 'stops', 'crashes', 'mmcv', 'no_such', 'works'])
    assert {name: one.get('failure') for name, one in found.items()} == {
        'raises': 'RuntimeError: two',
        'leaves': 'SystemExit: 3',
        'stops': 'ends the process (exit code 7)',
        'crashes': 'ends the process (SIGKILL)',
        'mmcv': 'ModuleNotFoundError: import of mmcv halted; None in sys.modules',
        'no_such': "ModuleNotFoundError: No module named 'no_such'",
        'works': None,
    }
    assert found['no_such']['missing'] and not found['raises']['missing'] and found['works'] == {'a': 1}


def test_where_all_works_all_commands_run(examined: Break) -> None:
    report = examined()
    assert report['ready'] and report['remedies'] == []
    assert set(report['commands']) == set(COMMANDS) and not any(report['commands'].values())
    assert set(NEEDS) <= set(COMMANDS)
    assert all(value is None or value > 0 for value in report['free_bytes'].values())


def test_a_deleted_folder_and_a_user_without_home(
    examined: Break, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'gone').mkdir()
    monkeypatch.chdir(tmp_path / 'gone')
    (tmp_path / 'gone').rmdir()
    assert str(tmp_path / 'gone') not in examined()['free_bytes']
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('HOME', raising=False)
    monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
    monkeypatch.setattr('pwd.getpwuid', lambda uid: {}[uid])  # KeyError, as for a user who is not listed
    assert examined()['ready']


def test_one_library_is_enough(examined: Break) -> None:
    report = examined(mmdet=None)
    assert report['ready'] and report['commands']['train'] == [] and report['commands']['demo'] == ['mmdet']
    assert report['remedies'] == [f'mmdet is not installed: {how_to_install("det")}']
    report = examined(mmdet=None, mmseg='AssertionError: MMCV==2.2.0 is used')
    assert not report['ready'] and report['commands']['predict'] == ['mmseg or mmdet']
    assert report['remedies'][0] == (
        f'mmseg is installed but cannot be imported (AssertionError: MMCV==2.2.0 is used): {how_to_install("seg")}'
    )


def test_operators_that_do_not_run(examined: Break) -> None:
    failure = "ModuleNotFoundError: No module named 'mmcv._ext'"
    report = examined(mmcv_operators=failure)
    assert not report['ready'] and report['commands']['train'] == ['mmcv operators']
    (remedy,) = report['remedies']
    assert remedy.startswith(f"mmcv's compiled operators do not run ({failure}): ")
    report = examined(mmcv_operators_on_the_GPU='RuntimeError: nms_impl: implementation for device cuda:0 not found.')
    assert report['ready'] and 'which Mask R-CNN needs there' in report['remedies'][0]


def test_a_broken_torch_is_named_once(examined: Break) -> None:
    broken = 'RuntimeError: a broken torch'
    report = examined(torch=broken, mmcv=broken, mmseg=broken, mmdet=broken, backbone=broken, GPU=broken)
    assert not report['ready'] and 'torch' in report['commands']['train']
    assert report['remedies'] == [f'torch is installed but cannot be imported ({broken}): {how_to_install("all")}']
    assert report['commands']['list'] == report['commands']['doctor'] == []


@pytest.mark.parametrize(
    ('module', 'command', 'extra'),
    [('gradio', 'app', 'app'), ('onnx', 'export', 'export'), ('pydantic', 'check-data', 'seg')],
)
def test_an_extra_is_missed_by_its_command_alone(module: str, command: str, extra: str, examined: Break) -> None:
    report = examined(**{module: None})
    assert report['ready']
    assert {name for name, lacking in report['commands'].items() if lacking} == {command}
    assert report['remedies'] == [f'{module} is not installed: {how_to_install(extra)}']


def test_a_gpu_that_torch_does_not_see(examined: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    examined()
    monkeypatch.setattr(examination.glob, 'glob', lambda pattern: ['/dev/nvidia0'])
    (remedy,) = examine()['remedies']
    assert remedy.startswith('this machine has an NVIDIA GPU, but torch is built for CPUs only: ')
