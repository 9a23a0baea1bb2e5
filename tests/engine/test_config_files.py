"""Config files that are missing, inherit themselves or raise are named with file, line and remedy, at once."""

import time
from pathlib import Path

import pytest

from mmtwins.engine.config_files import check_files, explain_reading


def write(folder: Path, **files: str) -> str:
    for name, text in files.items():
        path = folder / f'{name}.py'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(folder / 'config.py')


def test_all_files_are_found(tmp_path: Path) -> None:
    path = write(tmp_path, config="_base_ = ['a.py', 'sub/b.py']", a='', **{'sub/b': "_base_ = '../a.py'"})
    assert {Path(one).resolve().name for one in check_files(path)} == {'config.py', 'a.py', 'b.py'}
    lazy = 'from mmengine.config import read_base\nwith read_base():\n    from .a import *\n    from .gone import *\n'
    assert len(check_files(write(tmp_path, config=lazy))) == 2  # MMEngine says what is gone


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        (
            dict(config="_base_ = 'config.py'"),
            r'config\.py inherits itself: config\.py -> config\.py: take one of them',
        ),
        (
            dict(config="_base_ = 'a.py'", a="_base_ = ['b.py']", b="_base_ = 'a.py'"),
            r'inherits itself: a\.py -> b\.py -> a\.py',
        ),
        (dict(config='from .config import x'), 'inherits itself'),
        (
            dict(config="_base_ = 'aa.py'", aaa=''),
            r'_base_ names .*/aa\.py, which does not exist: correct _base_ \(perhaps aaa',
        ),
        (dict(config="_base_ = '.'"), r'_base_ names .*, which is a folder'),
        (dict(config='_base_ = [1]'), r'config\.py: _base_ holds 1: write the path of a config'),
        (dict(config='a = ('), r"config\.py, line 1: '\(' was never closed: correct the file"),
        (dict(config='a = 1\n  b = 2'), r'config\.py, line 2: unexpected indent'),
        (
            dict(config="_base_ = 'mmengine::a.py'"),
            r'names mmengine::a\.py, but this install of mmengine holds no configs',
        ),
        (dict(config="_base_ = 'no_such_package::a.py'"), r'but there is no package no_such_package: install it'),
    ],
)
def test_what_is_wrong_is_said_at_once(files: dict[str, str], message: str, tmp_path: Path) -> None:
    path = write(tmp_path, **files)
    start = time.monotonic()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check_files(path)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ('base', 'message'),
    [
        ('mmseg::nope/nope.py', r'_base_ names mmseg::nope/nope\.py, which mmseg does not have'),
        (
            'mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x51.py',
            r'perhaps mmseg::upernet/.*-512x512\.py is meant',
        ),
        ('mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py', ''),
    ],
)
def test_advice_is_about_the_package_that_is_named(base: str, message: str, tmp_path: Path) -> None:
    pytest.importorskip('mmseg')
    path = write(tmp_path, config=f'_base_ = {base!r}')
    if not message:
        assert len(check_files(path)) > 1
        return
    with pytest.raises(FileNotFoundError, match=message) as raised:
        check_files(path)
    assert 'mmtwins' not in str(raised.value).replace(str(tmp_path), '')


def test_paths_that_are_no_configs(tmp_path: Path) -> None:
    (tmp_path / 'a.txt').touch()
    for path, message in (
        (tmp_path, 'is a folder'),
        (tmp_path / 'x.py', 'does not exist'),
        (tmp_path / 'a.txt', 'ends in none'),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=f'config {path} {message}.*give a path such as'):
            check_files(str(path))
    with pytest.raises(FileNotFoundError, match='is no file'):
        check_files('/dev/null')


def test_errors_of_a_config_have_its_line() -> None:
    try:
        exec(compile('a = 1\nb = a / 0', 'folder/config.py', 'exec'))
    except ZeroDivisionError as error:
        text = explain_reading(error, 'folder/config.py', {'folder/config.py'})
        assert text == 'folder/config.py, line 2: ZeroDivisionError: division by zero: correct the file'
        assert explain_reading(error, 'x.py', set()) == 'x.py: ZeroDivisionError: division by zero: correct the file'
    assert explain_reading(AssertionError(), 'x.py', set()) == 'x.py: AssertionError: correct the file'
    assert explain_reading(KeyError('d'), 'x.py', set()) == 'x.py: KeyError: d: correct the file'
    assert explain_reading(SystemExit(3), 'x.py', set()).startswith('x.py ends the program (3)')
    assert explain_reading(RecursionError(), 'x.py', set()).startswith('x.py inherits itself, or is nested too deeply')
