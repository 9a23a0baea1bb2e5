"""The tests that need a GPU, as a part of the GPU report."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

MARK = 'mark.gpu'


def run_gpu_tests(root: Path) -> dict[str, Any]:
    """Run the tests with the marker ``gpu``.

    Args:
        root: The checkout.

    Returns:
        Counts of ``passed``, ``failed`` and ``skipped`` tests, why they were ``skipped_because``, and ``failures``: a
        sentence for each that failed.

    Raises:
        FileNotFoundError: There are no such tests.
        ChildProcessError: pytest did not run.
    """
    files = [str(path) for path in sorted((root / 'tests').rglob('test_*.py')) if MARK in path.read_text()]
    if not files:
        raise FileNotFoundError(f'{root} has no tests with the marker gpu: run the tool in a checkout of mmtwins')
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, 'report.xml')
        command = [sys.executable, '-m', 'pytest', '-m', 'gpu', '-q', '-p', 'no:cacheprovider', f'--junitxml={report}']
        env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')]).rstrip(':')}
        done = subprocess.run([*command, *files], cwd=root, env=env, capture_output=True, text=True)
        if not report.exists():
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise ChildProcessError(f'pytest ended with code {done.returncode}: {lines[-1] if lines else "no output"}')
        return read_report(report)


def read_report(path: Path) -> dict[str, Any]:
    """Count the results in a JUnit file of pytest, see :func:`run_gpu_tests`."""
    passed, skipped, failures = 0, [], []
    for case in ElementTree.parse(path).iter('testcase'):
        name = f'{case.get("classname")}.{case.get("name")}'.lstrip('.')
        wrong = [child for child in case if child.tag in ('failure', 'error')]
        reasons = [child.get('message', '') for child in case if child.tag == 'skipped']
        if wrong:
            failures.append(f'{name} failed: {(wrong[0].get("message") or "").splitlines()[0][:200]}')
        elif reasons:
            skipped.append(reasons[0])
        else:
            passed += 1
    return dict(
        passed=passed,
        failed=len(failures),
        skipped=len(skipped),
        skipped_because=sorted(set(skipped)),
        failures=failures,
    )
