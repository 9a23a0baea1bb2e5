"""tools/visualize_attention.py: what it draws and what it refuses."""

import pytest
from toys import DETECTOR, SEGMENTOR

from mmtwins.commands.attention import parse_args


def test_command_line(toy_checkpoints, toy_data, call_tool, tmp_path):
    image = next((toy_data / 'coco/val2017').glob('*.jpg'))
    done = call_tool(
        'visualize_attention.py', DETECTOR, toy_checkpoints['mmdet'], image, '--points', 30, 40, 100, 90,
        '--out', 'deep/a.png', '--stages', 1, 3, '--features', '--rollout',
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


def test_several_images_are_drawn_into_a_folder(toy_checkpoints, toy_data, call_tool, tmp_path):
    images = sorted((toy_data / 'ade/images').glob('*/*.jpg'))
    images = [images[0], next(path for path in images if path.parent != images[0].parent)]
    arguments = [SEGMENTOR, toy_checkpoints['mmseg'], *images, '--points', 3, 4, '--stages', 1, '--device', 'cpu']
    done = call_tool('visualize_attention.py', *arguments, '--out', 'drawn')
    assert done.returncode == 0, done.stderr
    expected = [f'drawn/{path.parent.name}/{path.stem}.png' for path in images]
    assert [line for line in done.stdout.splitlines() if 'Wrote' in line] == [f'Wrote {name}' for name in expected]
    assert all((tmp_path / name).read_bytes().startswith(b'\x89PNG') for name in expected)
    done = call_tool('visualize_attention.py', *arguments[:3], *arguments[4:])
    assert done.stdout.endswith(f'Wrote work_dirs/attention/{images[0].stem}.png\n'), done.stderr
    done = call_tool('visualize_attention.py', *arguments, '--out', 'one.png')
    assert (done.returncode, done.stderr) == (1, 'error: --out one.png: 2 images need a folder\n')


def test_command_line_arguments(capsys):
    for arguments, message in (
        (['--points', '1'], 'pairs of x and y, not 1 numbers'),
        (['--points', '1', '2', '--block', 'x'], '--block x: give last'),
    ):
        with pytest.raises(SystemExit) as end:
            parse_args(['config', 'checkpoint', 'image', *arguments])
        assert end.value.code == 2
        assert message in capsys.readouterr().err
    args = parse_args(['config', 'checkpoint', 'image', 'other', '--points', *'1234', '--block', '9', '10'])
    assert args.points == [(1, 2), (3, 4)] and args.block == [9, 10] and args.stages is None
    assert args.image == ['image', 'other']
