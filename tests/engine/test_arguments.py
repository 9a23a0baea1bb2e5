"""Arguments that command lines share: image sizes, parents, errors in one line."""

import argparse
import os
from pathlib import Path

import pytest

from mmtwins.engine.arguments import (
    checkpoint_argument,
    config_argument,
    config_from,
    device_argument,
    image_size,
    launch_arguments,
    readable_errors,
)


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


def test_parents_add_their_arguments_in_order() -> None:
    parents = [config_argument(), checkpoint_argument(), device_argument(), launch_arguments()]
    parser = argparse.ArgumentParser(parents=parents)
    args = parser.parse_args(['c.py', 'x.pth', '--cfg-options', 'a.b=1', 'c=[2,3]', '--local-rank', '4'])
    assert (args.config, args.checkpoint, args.device, args.launcher) == ('c.py', 'x.pth', None, 'none')
    assert args.cfg_options == {'a.b': 1, 'c': [2, 3]} and args.local_rank == 4
    assert '(default: a GPU if there is one)' in parser.format_help().replace('\n' + 24 * ' ', ' ')
    assert argparse.ArgumentParser(parents=[device_argument('cpu')]).parse_args([]).device == 'cpu'


def test_the_config_of_a_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    path = tmp_path / 'name.py'
    path.write_text('a = 1')
    parser = argparse.ArgumentParser(parents=[config_argument(), launch_arguments()])
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


def test_errors_of_ours_keep_their_traceback() -> None:
    with pytest.raises(TypeError), readable_errors():
        raise TypeError('a bug')
