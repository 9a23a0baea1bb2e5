"""GPU tests as a part of the report: which run, and how their results are counted."""

import subprocess
from pathlib import Path

import pytest

from mmtwins.benchmark import gpu_tests
from mmtwins.benchmark.gpu_tests import read_report, run_gpu_tests

ROOT = Path(__file__).parents[2]
REPORT = """<testsuites><testsuite>
<testcase classname="tests.a" name="passes"/>
<testcase classname="tests.a" name="fails"><failure message="assert 1 == 2&#10;more">text</failure></testcase>
<testcase classname="" name="tests.b"><error message="ImportError: x">text</error></testcase>
<testcase classname="tests.a" name="skipped"><skipped message="needs a CUDA GPU"/></testcase>
<testcase classname="tests.a" name="also"><skipped message="needs a CUDA GPU"/></testcase>
</testsuite></testsuites>"""


def test_results_are_counted(tmp_path: Path) -> None:
    (tmp_path / 'report.xml').write_text(REPORT)
    assert read_report(tmp_path / 'report.xml') == dict(
        passed=1,
        failed=2,
        skipped=2,
        skipped_because=['needs a CUDA GPU'],
        failures=['tests.a.fails failed: assert 1 == 2', 'tests.b failed: ImportError: x'],
    )


def test_the_files_with_gpu_tests_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command, **options):
        option = next(part for part in command if part.startswith('--junitxml='))
        Path(option.removeprefix('--junitxml=')).write_text(REPORT)
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, '', '')

    commands: list = []
    monkeypatch.setattr(gpu_tests.subprocess, 'run', run)
    assert run_gpu_tests(ROOT)['passed'] == 1
    (command,) = commands
    assert command[2:5] == ['pytest', '-m', 'gpu']
    assert {str(ROOT / 'tests/models/test_backbone.py'), str(ROOT / 'tests/benchmark/test_sdpa.py')} < set(command)


def test_a_pytest_that_does_not_run_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = subprocess.CompletedProcess([], 1, '', 'python: No module named pytest\n')
    monkeypatch.setattr(gpu_tests.subprocess, 'run', lambda *args, **kwargs: done)
    with pytest.raises(ChildProcessError, match='pytest ended with code 1: python: No module named pytest'):
        run_gpu_tests(ROOT)
    (tmp_path / 'tests').mkdir()
    with pytest.raises(FileNotFoundError, match='has no tests with the marker gpu: run the tool in a checkout'):
        run_gpu_tests(tmp_path)


@pytest.mark.slow
def test_pytest_runs_them() -> None:
    found = run_gpu_tests(ROOT)
    assert found['failed'] == 0 and found['passed'] + found['skipped'] >= 20
