"""Files are written whole or not at all, and damage to checkpoints is found."""

import errno
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from mmtwins.weights import saving
from mmtwins.weights.saving import find_damage, first_not_finite, remove_partial_files, serialise, write_whole

CONTENT = bytes(range(256)) * 20_000  # several chunks


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    for content in (CONTENT, b'', b'x'):
        write_whole(path, content)
        assert path.read_bytes() == content
        assert names(tmp_path) == ['a.pth']


def test_the_name_is_taken_only_when_the_content_is_on_the_disk_and_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []

    def note(name: str, function: Any) -> Any:
        def call(*args: Any) -> Any:
            events.append((name, (tmp_path / 'a').read_bytes()))
            return function(*args)

        return call

    (tmp_path / 'a').write_bytes(b'old')
    for name in ('write', 'fsync', 'replace'):
        monkeypatch.setattr(saving.os, name, note(name, getattr(os, name)))
    monkeypatch.setattr(saving, '_read_back', note('read back', saving._read_back))
    write_whole(tmp_path / 'a', b'new')
    assert events == [
        ('write', b'old'), ('fsync', b'old'), ('read back', b'old'), ('replace', b'old'), ('fsync', b'new'),
    ]  # fmt: skip


def test_a_disk_without_room_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'a').write_bytes(b'old')
    usage = saving.shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(saving.shutil, 'disk_usage', lambda path: usage)
    monkeypatch.setattr(saving.os, 'write', None)
    with pytest.raises(OSError, match=r'/a cannot be written: it needs 5\.1 MB, and the disk has 1\.0 MB left$'):
        write_whole(tmp_path / 'a', CONTENT)
    assert names(tmp_path) == ['a'] and (tmp_path / 'a').read_bytes() == b'old'


@pytest.mark.parametrize('failing', ['write', 'fsync', 'replace'])
def test_an_error_leaves_what_was_there(failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    function, calls = getattr(os, failing), []

    def fail_late(*args: Any) -> Any:
        calls.append(args)
        if failing != 'write' or len(calls) > 2:  # a disk that fills up
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return function(*args)

    (tmp_path / 'a').write_bytes(b'old')
    monkeypatch.setattr(saving.os, failing, fail_late)
    with pytest.raises(OSError, match=r'/a cannot be written: No space left on device$'):
        write_whole(tmp_path / 'a', CONTENT)
    assert names(tmp_path) == ['a'] and (tmp_path / 'a').read_bytes() == b'old'


def test_a_disk_that_lies_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def flip(descriptor: int, content: Any) -> int:
        return write(descriptor, bytes(content[:-1]) + bytes([content[-1] ^ 1]))

    (tmp_path / 'a').write_bytes(b'old')
    monkeypatch.setattr(saving.os, 'write', flip)
    with pytest.raises(OSError, match='something else than was written'):
        write_whole(tmp_path / 'a', CONTENT)
    assert names(tmp_path) == ['a'] and (tmp_path / 'a').read_bytes() == b'old'


def test_partial_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    for name in ('.iter_2.pth.partial', '.last_checkpoint.partial', 'iter_1.pth', '.lock', 'my.partial'):
        (tmp_path / name).touch()
    remove_partial_files(tmp_path)
    assert names(tmp_path) == ['.lock', 'iter_1.pth', 'my.partial']


@pytest.fixture(scope='module')
def checkpoint() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    weights = {f'layer{i}.weight': torch.randn(50, generator=generator) for i in range(5)}
    return dict(state_dict=weights, meta=dict(iter=3, text='x' * 300))


def test_every_cut_is_found(checkpoint: dict, tmp_path: Path) -> None:
    whole = serialise(checkpoint)
    path = tmp_path / 'a.pth'
    path.write_bytes(whole)
    assert find_damage(path) is None
    for length in [0, 1, 4, 100, *range(200, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert find_damage(path) == 'it is cut off, or no checkpoint', length


@pytest.mark.filterwarnings('ignore')
def test_a_flipped_bit_is_found_if_it_changes_what_is_read(checkpoint: dict, tmp_path: Path) -> None:
    whole, path, rng = serialise(checkpoint), tmp_path / 'a.pth', random.Random(0)
    unnoticed = 0
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            read = torch.load(path, weights_only=True)
        except Exception:
            continue
        if serialise(read) != whole:
            unnoticed += 1
            assert find_damage(path), place
    assert unnoticed > 100  # torch.load alone reads these without a word
    damaged = bytearray(whole)
    damaged[whole.index(checkpoint['state_dict']['layer3.weight'].numpy().tobytes()) + 1] ^= 1
    path.write_bytes(damaged)
    found = str(find_damage(path))
    assert found.startswith('it is damaged: the checksum of ') and found.endswith(' is wrong')


def test_the_first_tensor_that_is_not_finite_is_named() -> None:
    good = dict(a=torch.ones(2), b=torch.tensor([1, 2]), c=3, d=dict(e=torch.zeros(1)))
    assert first_not_finite(good) is None
    for bad in (float('nan'), float('inf'), -float('inf')):
        assert first_not_finite({**good, 'd': {0: dict(exp_avg=torch.tensor([1, bad]))}}) == 'd.0.exp_avg'
        assert first_not_finite({'h': torch.tensor([bad]).half(), **good}) == 'h'
