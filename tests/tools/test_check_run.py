"""tools/check_run.py: its exit codes, the sentence, the picture, and messages for folders that hold no training."""

from pathlib import Path

import pytest
from runs import SVT_S, recipe_of, svt_s_records, write_run


def test_a_run_on_track(call_tool, tmp_path: Path) -> None:
    write_run(tmp_path / 'run', svt_s_records(1000), recipe_of(SVT_S))
    done = call_tool('check_run.py', tmp_path / 'run')
    assert done.returncode == 0, done.stderr
    *findings, wrote, sentence = done.stdout.splitlines()
    assert sentence.startswith(f'On track: {SVT_S} at iteration 1,000 of 160,000: ')
    assert wrote == f'Wrote {tmp_path / "run" / "check_run.png"}'
    assert (tmp_path / 'run' / 'check_run.png').read_bytes().startswith(b'\x89PNG')
    assert [line.split()[0] for line in findings] == ['ok'] * 4


def test_a_run_off_track(call_tool, tmp_path: Path) -> None:
    write_run(tmp_path / 'run', svt_s_records(1000, loss=1.6), recipe_of(SVT_S))
    done = call_tool('check_run.py', tmp_path / 'run', '--out', tmp_path / 'deep' / 'picture.png')
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith(f'Off track: {SVT_S} at iteration 1,000 of 160,000: the loss is ')
    assert not done.stderr
    assert (tmp_path / 'deep' / 'picture.png').is_file() and not (tmp_path / 'run' / 'check_run.png').exists()


def test_a_recipe_can_be_named(call_tool, tmp_path: Path) -> None:
    write_run(tmp_path / 'run', svt_s_records(1000))
    cfg = recipe_of(SVT_S)
    cfg.dump(tmp_path / 'recipe.py')
    assert call_tool('check_run.py', tmp_path / 'run', '--config', tmp_path / 'recipe.py').returncode == 0
    done = call_tool('check_run.py', tmp_path / 'run')
    assert done.returncode == 2 and 'name the recipe with --config' in done.stderr


@pytest.mark.parametrize(
    ('folder', 'message'),
    [
        ('missing', 'is no folder: give the work directory of a training, such as work_dirs/CONFIG'),
        ('', 'has no TIMESTAMP/vis_data/scalars.json: give the work directory of a training'),
        ('empty', 'has no record of training in 1 log(s): wait for the first line'),
    ],
)
def test_nothing_to_compare_is_said_in_one_line(folder: str, message: str, call_tool, tmp_path: Path) -> None:
    (tmp_path / 'nothing').mkdir()
    write_run(tmp_path / 'nothing' / 'empty', [], recipe_of(SVT_S))
    done = call_tool('check_run.py', tmp_path / 'nothing' / folder)
    assert done.returncode == 2
    assert done.stderr.startswith('error: ') and message in done.stderr
    assert done.stderr.count('\n') == 1 and not done.stdout


def test_arguments_are_explained(call_tool) -> None:
    done = call_tool('check_run.py', '--help')
    assert '0 on track, 1 off track, 2 nothing to compare' in ' '.join(done.stdout.split())
    assert call_tool('check_run.py').returncode == 2
