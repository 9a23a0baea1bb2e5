"""Files fetched into the cache: once, checked, and without long waits."""

import hashlib
import socket
import time
from pathlib import Path

import pytest
import torch
from server import Server

from mmtwins.weights import fetching
from mmtwins.weights.fetching import cache_path, fetch, has_sha256, locked


def test_a_file_is_fetched_once_and_kept_where_torch_keeps_it(hub: Server) -> None:
    sha256 = hub.file('a-0123abcd.pth', b'content')
    for digits in ('', sha256[:8], 'f' * 8):  # what is in the cache is not checked again
        path = fetch(f'{hub.url}/a-0123abcd.pth', digits)
        assert path.read_bytes() == b'content'
    assert path == Path(torch.hub.get_dir()) / 'checkpoints' / 'a-0123abcd.pth'
    assert hub.fetched == ['/a-0123abcd.pth']


def test_names_without_a_hash_are_kept_apart_by_url() -> None:
    assert cache_path('http://a/model.pth').name == cache_path('http://b/model.pth').name == 'model.pth'
    assert cache_path('http://a/model.pth').parent != cache_path('http://b/model.pth').parent
    assert cache_path('http://a/m_20220308-7e1c3695.pth?x=1') == cache_path('http://b/m_20220308-7e1c3695.pth')
    assert cache_path('http://a/m-7e1c369.pth') != cache_path('http://b/m-7e1c369.pth')  # seven digits are a version


def test_a_wrong_file_is_not_kept(hub: Server) -> None:
    hub.file('a-0123abcd.pth', b'content')
    with pytest.raises(RuntimeError, match='0123abcd'):
        fetch(f'{hub.url}/a-0123abcd.pth', '0123abcd')
    kept = [path.name for path in cache_path('a-0123abcd.pth').parent.iterdir()]
    assert [name for name in kept if not name.endswith('.lock')] == []


def test_hash_of_a_file(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000  # more than is read at a time
    (tmp_path / 'a').write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    assert has_sha256(tmp_path / 'a', sha256)
    assert has_sha256(tmp_path / 'a', sha256[:8])
    assert not has_sha256(tmp_path / 'a', sha256[1:9])


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch, hub: Server) -> None:
    monkeypatch.setattr(fetching, 'TIMEOUT', 0.3)
    with socket.create_server(('127.0.0.1', 0)) as silent:
        start = time.monotonic()
        with pytest.raises(OSError, match='timed out'):
            fetch(f'http://127.0.0.1:{silent.getsockname()[1]}/a.pth')
        assert time.monotonic() - start < 3
    assert socket.getdefaulttimeout() is None


def test_without_locks_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locked(tmp_path / 'new' / 'a'):
        assert (tmp_path / 'new' / 'a.lock').exists()

    def refuse(self: object) -> None:
        raise PermissionError('read-only')

    monkeypatch.setattr('filelock.FileLock.acquire', refuse)
    with locked(tmp_path / 'a'):
        pass
