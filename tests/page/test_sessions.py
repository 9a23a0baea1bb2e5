"""Sessions: separate, bounded, and without files once they are closed."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest

from mmtwins.page.sessions import MAX_KEPT_PIXELS, Session, Sessions


def session(upload=None, pixels=(4, 4)) -> Session:
    return Session(SimpleNamespace(image=np.broadcast_to(np.uint8(0), (*pixels, 3))), upload)


def write(folder: Path) -> dict[str, str]:
    (folder / 'x.png').touch()
    return {'x': str(folder / 'x.png')}


def test_each_tab_has_its_own(tmp_path):
    sessions = Sessions(tmp_path)
    one, two = session(), session()
    sessions.open('one', one)
    sessions.open('two', two)
    assert sessions.get('one') is one and sessions.get('two') is two
    sessions.close('one')
    sessions.close('never opened')
    with pytest.raises(ValueError, match='choose one'):
        sessions.get('one')
    assert sessions.get('two') is two


def test_uploads_and_downloads_are_deleted_with_the_session_but_no_file_of_another_place(tmp_path):
    folder = (tmp_path / 'page').resolve()
    folder.mkdir()
    sessions = Sessions(folder)
    upload, outside, link = folder / 'a.png', tmp_path / 'outside.png', folder / 'link.png'
    for path in (upload, outside):
        path.touch()
    link.symlink_to(outside)
    for key, path in (('a', upload), ('b', outside), ('c', link), ('d', folder / '..' / 'outside.png')):
        opened = session(path)
        sessions.open(key, opened)
        first, made = (Path(sessions.make_files(opened, 'download', (i,), write)['x']) for i in range(2))
        assert made.is_file() and made.parent.parent == folder and not first.parent.exists()
        sessions.close(key)
        assert not made.parent.exists()
    assert not upload.exists() and outside.exists()


def test_an_event_that_comes_twice_at_once_leaves_one_folder(tmp_path):
    sessions, opened, both = Sessions(tmp_path), session(), Barrier(2)
    sessions.open('tab', opened)

    def make(choice) -> str:
        both.wait()
        return sessions.make_files(opened, 'heat', (choice,), write)['x']

    with ThreadPoolExecutor(2) as pool:
        for choice in range(20):
            one, other = pool.map(make, [choice, choice])
            assert one == other and [str(path) for path in tmp_path.rglob('*.png')] == [one]
        list(pool.map(make, ['a', 'b']))
    assert len(list(tmp_path.iterdir())) == 1
    path = Path(opened.made['heat'].paths['x'])
    path.unlink()
    assert Path(sessions.make_files(opened, 'heat', opened.made['heat'].choices, write)['x']).is_file()


def test_an_event_that_comes_after_the_session_leaves_nothing(tmp_path):
    sessions, opened = Sessions(tmp_path), session()
    sessions.open('tab', opened)
    with pytest.raises(OSError, match='full'):
        sessions.make_files(opened, 'heat', (), Mock(side_effect=OSError('the disk is full')))
    assert not list(tmp_path.iterdir())
    sessions.close('tab')
    with pytest.raises(ValueError, match='choose one'):
        sessions.make_files(opened, 'heat', (), write)
    assert not list(tmp_path.iterdir())


def test_a_session_closed_while_a_file_is_made_leaves_nothing_and_stops_no_other_user(tmp_path):
    sessions, opened, other = Sessions(tmp_path), session(), session()
    begun, closing = Event(), Event()
    sessions.open('tab', opened)
    sessions.open('other', other)

    def write_slowly(folder: Path) -> dict[str, str]:
        begun.set()
        assert closing.wait(60)
        return write(folder)

    with ThreadPoolExecutor(2) as pool:
        made = pool.submit(sessions.make_files, opened, 'download', (), write_slowly)
        assert begun.wait(60)
        closed = pool.submit(sessions.close, 'tab')
        while 'tab' in sessions._open:
            assert not closed.done()
        assert sessions.get('other') is other
        closing.set()
        made.result(60)
        closed.result(60)
    assert opened.closed and not list(tmp_path.iterdir())


def test_the_next_image_of_a_tab_takes_the_place_of_the_last(tmp_path):
    sessions = Sessions(tmp_path)
    uploads = [tmp_path / 'a.png', tmp_path / 'b.png']
    for upload in uploads:
        upload.touch()
        sessions.open('tab', session(upload))
    assert [upload.exists() for upload in uploads] == [False, True]


def test_a_file_that_two_users_uploaded_stays_until_both_are_gone(tmp_path):
    sessions = Sessions(tmp_path)
    upload = tmp_path / 'same.png'
    upload.touch()
    sessions.open('one', session(upload))
    sessions.open('two', session(upload))
    sessions.discard(upload)
    sessions.close('one')
    assert upload.exists()
    sessions.close('two')
    assert not upload.exists()


def test_the_oldest_are_forgotten_where_memory_would_run_out(tmp_path):
    sessions = Sessions(tmp_path)
    side = int((MAX_KEPT_PIXELS / 2) ** 0.5)
    for key in ('first', 'second'):
        sessions.open(key, session(pixels=(side, side)))
    sessions.get('first')
    sessions.open('third', session(pixels=(side, side)))
    with pytest.raises(ValueError, match='no longer kept'):
        sessions.get('first')
    sessions.get('second')
    sessions.open('huge', session(pixels=(4 * side, 4 * side)))
    sessions.get('huge')
    with pytest.raises(ValueError):
        sessions.get('third')
