"""tools/visualize_attention.py: what it draws and what it refuses."""

import runpy
from pathlib import Path

import pytest
from toys import DETECTOR, SEGMENTOR

TOOL = Path(__file__).parents[2] / 'tools' / 'visualize_attention.py'


def test_command_line(toy_checkpoints, toy_data, call_tool, tmp_path):
    image = next((toy_data / 'coco/val2017').glob('*.jpg'))
    done = call_tool(
        'visualize_attention.py', DETECTOR, toy_checkpoints['mmdet'], image, '--points', 30, 40, 100, 90,
        '--out', 'deep/a.png', '--stages', 1, 3, '--features',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'deep/a.png').read_bytes().startswith(b'\x89PNG')
    done = call_tool('visualize_attention.py', DETECTOR, toy_checkpoints['mmdet'], image, '--points', 30, 40)
    assert done.stdout.splitlines()[-1] == f'Wrote work_dirs/attention/{image.stem}.png'
    assert (tmp_path / 'work_dirs/attention' / f'{image.stem}.png').is_file()


def test_errors_end_in_one_line(toy_checkpoints, toy_data, call_tool):
    image = next((toy_data / 'ade/images/validation').glob('*.jpg'))
    for name, message in (
        (image, 'error: point 30 128 is outside the image of 128 x 128 pixels: x goes from 0 to 127, y from 0 to 127'),
        (SEGMENTOR, f'error: image {SEGMENTOR} cannot be read: it is damaged or no image'),
    ):
        arguments = [SEGMENTOR, toy_checkpoints['mmseg'], name, '--points', 30, 128, '--device', 'cpu']
        done = call_tool('visualize_attention.py', *arguments)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == message
        assert 'Traceback' not in done.stderr


def test_command_line_arguments(monkeypatch, capsys):
    tool = runpy.run_path(str(TOOL))
    for arguments, message in (
        (['--points', '1'], 'pairs of x and y, not 1 numbers'),
        (['--points', '1', '2', '--block', 'x'], '--block x: give last'),
    ):
        monkeypatch.setattr('sys.argv', ['visualize_attention.py', 'config', 'checkpoint', 'image', *arguments])
        with pytest.raises(SystemExit):
            tool['parse_args']()
        assert message in capsys.readouterr().err
    monkeypatch.setattr('sys.argv', ['x', 'config', 'checkpoint', 'image', '--points', *'1234', '--block', '9', '10'])
    args = tool['parse_args']()
    assert args.points == [(1, 2), (3, 4)] and args.block == [9, 10] and args.stages is None
