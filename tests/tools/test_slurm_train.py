"""tools/slurm_train.sh with a Slurm made of shell scripts: submitted once, signalled, requeued, resumed."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / 'tools' / 'slurm_train.sh'

# Each notes how it was called. sbatch runs the job as Slurm does: a copy of the script, from the same folder.
FAKES = {
    'sbatch': 'cp {folder}/tools/slurm_train.sh {folder}/spool.sh\n'
    'while [ "${{1#--}}" != "$1" ]; do shift; done; shift\n'
    'SLURM_JOB_ID=7 SLURM_RESTART_COUNT=${{RESTARTS:-0}} bash {folder}/spool.sh "$@"',
    'srun': 'exit ${{CODE:-0}}',
    'scontrol': 'true',
}


@pytest.fixture
def slurm(tmp_path: Path) -> Path:
    """A folder with the script and the programs of Slurm, which write their calls to ``calls``."""
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'tools').mkdir()
    (tmp_path / 'tools' / SCRIPT.name).write_text(SCRIPT.read_text())
    (tmp_path / 'tools' / SCRIPT.name).chmod(0o755)
    for name, body in FAKES.items():
        program = tmp_path / 'bin' / name
        program.write_text(f'#!/bin/bash\necho "{name} $*" >> {tmp_path}/calls\n{body.format(folder=tmp_path)}\n')
        program.chmod(0o755)
    return tmp_path


def submit(slurm: Path, *arguments: str, **environment: str) -> tuple[int, list[str]]:
    """Run the script; returns its exit code and the calls."""
    (slurm / 'calls').unlink(missing_ok=True)
    env = {'PATH': f'{slurm}/bin:{os.environ["PATH"]}', **environment}
    command = [slurm / 'tools' / SCRIPT.name, 'part', 'job', 'my configs/C.py', 'work', *arguments]
    done = subprocess.run(command, env=env, cwd=slurm, capture_output=True, text=True)
    return done.returncode, (slurm / 'calls').read_text().splitlines()


def test_the_job_is_submitted_with_a_signal_and_runs_the_training(slurm: Path) -> None:
    code, (sbatch, srun) = submit(slurm, '--amp', SBATCH_ARGS='--time=1:00:00 --mem=8G', GPUS='16')
    assert code == 0
    assert sbatch.startswith('sbatch --partition=part --job-name=job --gres=gpu:8 --ntasks=16 --ntasks-per-node=8')
    assert (
        ' --requeue --open-mode=append --output=work/slurm-%j.out --signal=USR1@300 --time=1:00:00 --mem=8G ' in sbatch
    )
    assert (slurm / 'work').is_dir()
    assert srun.endswith(
        f'--kill-on-bad-exit=1 python -u {slurm}/tools/train.py my configs/C.py --work-dir work --launcher slurm --amp'
    )


def test_an_interrupted_training_goes_back_to_the_queue(slurm: Path) -> None:
    code, calls = submit(slurm, CODE='75', SIGNAL_SECONDS='60')
    assert (code, calls[-1]) == (75, 'scontrol requeue 7')
    assert '--signal=USR1@60' in calls[0]


@pytest.mark.parametrize('code', ['1', '130', '143'])
def test_a_failed_training_does_not(slurm: Path, code: str) -> None:
    returned, calls = submit(slurm, CODE=code)
    assert returned == int(code)
    assert [call.split()[0] for call in calls] == ['sbatch', 'srun']


def test_a_restarted_job_continues_whatever_it_was_told_at_first(slurm: Path) -> None:
    _, calls = submit(slurm, '--resume', 'old.pth', RESTARTS='2')
    assert calls[1].endswith('--launcher slurm --resume old.pth --resume')


def test_inside_a_job_it_runs_at_once(slurm: Path) -> None:
    code, calls = submit(slurm, SLURM_JOB_ID='9', CODE='75')
    assert code == 75
    assert [call.split()[0] for call in calls] == ['srun', 'scontrol'] and calls[1] == 'scontrol requeue 9'
