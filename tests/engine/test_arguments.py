"""Arguments that command lines share: image sizes, parents, errors in one line."""

import argparse
import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mmtwins.engine.arguments import (
    add_checkpoint,
    add_config_with_options,
    add_device,
    add_launch,
    config_from,
    image_size,
    readable_errors,
)


def parser_with(*adders: Callable[[argparse.ArgumentParser], None]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    for add in adders:
        add(parser)
    return parser


@pytest.mark.parametrize(('text', 'size'), [('512', (512, 512)), ('800x1344', (800, 1344)), ('1x2', (1, 2))])
def test_an_image_size_is_height_x_width_or_a_side(text: str, size: tuple[int, int]) -> None:
    assert image_size(text) == size


@pytest.mark.parametrize('text', ['64xa', '', 'x', '64x', 'x64', '1x2x3', '-5', '12.5', '64 64', '64X64'])
def test_anything_else_is_no_image_size(text: str, capsys: pytest.CaptureFixture) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('--size', type=image_size, nargs='+', default='512')
    with pytest.raises(SystemExit, match='2'):
        parser.parse_args([f'--size={text}'])
    message = f'{text!r} is no image size: give height x width in pixels, such as 800x1344, or one side, such as 512'
    assert message in capsys.readouterr().err


def test_arguments_are_added_in_order() -> None:
    parser = parser_with(add_config_with_options, add_checkpoint, add_device, add_launch)
    args = parser.parse_args(['c.py', 'x.pth', '--cfg-options', 'a.b=1', 'c=[2,3]', '--local-rank', '4'])
    assert (args.config, args.checkpoint, args.device, args.launcher) == ('c.py', 'x.pth', None, 'none')
    assert args.cfg_options == {'a.b': 1, 'c': [2, 3]} and args.local_rank == 4
    assert '(default: a GPU if there is one)' in parser.format_help().replace('\n' + 24 * ' ', ' ')
    assert parser_with(partial(add_device, default='cpu')).parse_args([]).device == 'cpu'


@pytest.mark.parametrize(
    ('option', 'value'),
    [
        ('a=my data/ade  20k', 'my data/ade  20k'),
        ("a=('traffic light', \"bench\" ,[ 'fire hydrant' ])", ('traffic light', 'bench', ['fire hydrant'])),
        ('a= [ 1, 2 ] ', [1, 2]),
        ('a=(0.1 , True)', (0.1, True)),
        ('a=b=c d', 'b=c d'),
        ('a=', ''),
    ],
)
def test_names_with_spaces_are_options(option: str, value: object) -> None:
    args = parser_with(add_config_with_options).parse_args(['c.py', '--cfg-options', option])
    assert args.cfg_options == {'a': value}


def test_the_config_of_a_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    path = tmp_path / 'name.py'
    path.write_text('a = 1')
    parser = parser_with(add_config_with_options, add_device, add_launch)
    try:
        cfg = config_from(parser.parse_args([str(path), '--cfg-options', 'a=2', '--local-rank', '3']))
        assert os.environ['LOCAL_RANK'] == '3'
    finally:
        os.environ.pop('LOCAL_RANK', None)
    assert (cfg.a, cfg.launcher, cfg.work_dir) == (2, 'none', str(Path('work_dirs/name')))
    path.write_text("work_dir = 'mine'")
    for given, expected in (([], 'mine'), (['--work-dir', 'given'], 'given')):
        monkeypatch.setenv('LOCAL_RANK', '0')
        assert config_from(parser.parse_args([str(path), *given])).work_dir == expected


@pytest.mark.parametrize('error', [ValueError('this'), FileNotFoundError('this'), ImportError('this')])
def test_errors_of_the_user_end_in_one_line(error: Exception) -> None:
    with pytest.raises(SystemExit, match=r'^error: this$'), readable_errors():
        raise error


def test_other_errors_can_be_named() -> None:
    with pytest.raises(ValueError), readable_errors(OSError):
        raise ValueError('a bug')
    with pytest.raises(SystemExit, match=r'^error: this$'), readable_errors(OSError):
        raise OSError('this')


@pytest.mark.parametrize(('hint', 'ending'), [('', ''), ('Go on so.', ' Go on so.')])
def test_ctrl_c_ends_in_one_line(hint: str, ending: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end, readable_errors(hint=hint):
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert capsys.readouterr().err == f'\nstopped by Ctrl-C.{ending}\n'


def test_a_full_disk_is_named() -> None:
    with pytest.raises(SystemExit) as end, readable_errors(OSError, hint='Go on so.'):
        raise OSError(errno.ENOSPC, 'No space left on device', 'work/scalars.json')
    assert end.value.code == (
        'error: the disk of work/scalars.json is full (No space left on device): make room. Go on so.'
    )


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('optim_wrapper', '--cfg-options optim_wrapper: give KEY=VALUE, such as optim_wrapper.type=NAME'),
        ('a=[1,2', '--cfg-options: Imbalanced brackets exist in [1,2'),
    ],
)
def test_options_that_are_none(option: str, message: str, capsys: pytest.CaptureFixture) -> None:
    parser = parser_with(add_config_with_options)
    with pytest.raises(SystemExit) as end:
        parser.parse_args(['c.py', '--cfg-options', 'b.c=1', option])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_errors_of_ours_keep_their_traceback() -> None:
    with pytest.raises(TypeError), readable_errors():
        raise TypeError('a bug')
