"""Paths that are no files to read are named for what they are, and nothing hangs on them."""

import os
import re
import socket
from pathlib import Path

import pytest

from mmtwins.datasets.files import FileIndex, file_problem, folder_problem


@pytest.fixture
def odd_files(tmp_path: Path) -> Path:
    (tmp_path / 'good').write_text('x')
    (tmp_path / 'empty').touch()
    (tmp_path / 'folder').mkdir()
    os.mkfifo(tmp_path / 'pipe')
    for name, target in (('link', 'good'), ('circle', 'circle'), ('dead', 'nothing'), ('zero', '/dev/zero')):
        (tmp_path / name).symlink_to(target)
    return tmp_path


NULL = r'cannot be read \((embedded null byte|\w+: embedded null character in path)\)'  # the latter from Python 3.13
EXPECTED = {
    'good': '',
    'link': '',
    'empty': 'is empty',
    'folder': 'is a folder',
    'pipe': 'is a pipe',
    'zero': 'is a device',
    'dead': 'is a link to nothing',
    'absent': 'does not exist',
    'circle': 'cannot be read (Too many levels of symbolic links)',
    'good/x': 'cannot be read (Not a directory)',
}


@pytest.mark.parametrize('name', EXPECTED)
def test_every_kind_of_file(name: str, odd_files: Path) -> None:
    assert file_problem(f'{odd_files}/{name}') == EXPECTED[name]
    assert FileIndex().problem(f'{odd_files}/{name}') == ('' if name == 'empty' else EXPECTED[name])


def test_sockets_and_long_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind('socket')
        assert file_problem('socket') == 'is a socket'
    assert file_problem('x' * 3000) == 'cannot be read (File name too long)'
    assert file_problem('\ud800.jpg').startswith('cannot be read (')


def test_folders(odd_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder_problem(odd_files) == ''
    assert folder_problem(odd_files / 'folder') == 'is empty'
    assert folder_problem(odd_files / 'good') == 'is a file, not a folder'
    assert folder_problem(odd_files / 'absent') == 'does not exist'
    assert re.fullmatch(NULL, folder_problem('a\0b'))
    assert re.fullmatch(NULL, file_problem('a\0b')) and re.fullmatch(NULL, FileIndex().problem('a\0b'))
    monkeypatch.chdir(odd_files)
    assert FileIndex().problem('good') == ''


def test_a_listing_answers_for_the_whole_folder(odd_files: Path) -> None:
    index = FileIndex()
    assert index.problem(f'{odd_files}/good') == ''
    (odd_files / 'good').unlink()
    assert index.problem(f'{odd_files}/link') == ''  # not asked again
