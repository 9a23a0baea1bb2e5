"""Scripts in processes: their output, their failure, and that none outlives the demo."""

import os
import sys

import pytest

from mmtwins.demo.processes import child_process, run_script
from mmtwins.demo.tasks import DemoError


def test_output_goes_to_the_log_and_progress_is_reported(tmp_path):
    (tmp_path / 'a.py').write_text('import sys; print("given", *sys.argv[1:])')
    reports = []
    run_script(tmp_path / 'a.py', ['x', 'y'], tmp_path / 'log', lambda: reports.append(1))
    assert (tmp_path / 'log').read_text() == 'given x y\n'
    assert reports


def test_a_failed_script_is_reported_with_the_end_of_its_log(tmp_path):
    (tmp_path / 'a.py').write_text('import sys; print(*range(20), sep="\\n"); sys.exit("error: no data")')
    with pytest.raises(DemoError, match=r'a\.py ended with exit code 1; the end of .*log:') as error:
        run_script(tmp_path / 'a.py', [], tmp_path / 'log')
    assert 'error: no data' in str(error.value)
    assert len(str(error.value).splitlines()) == 9


def test_a_process_ends_with_its_block(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        child_process([sys.executable, '-c', 'import time; time.sleep(60)'], tmp_path / 'log') as process,
    ):
        raise KeyboardInterrupt
    assert process.returncode < 0
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
