"""One file is read as weights only, and what goes wrong becomes one sentence."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmtwins.weights.safe_files import read_file, saying_damage


class Planted:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


def test_both_kinds_of_files(tmp_path: Path) -> None:
    weights = {'a.weight': torch.arange(3.0)}
    save_file(weights, tmp_path / 'a.safetensors')
    torch.save(weights, tmp_path / 'a.pth')
    for name in ('a.safetensors', 'a.pth'):
        assert torch.equal(read_file(tmp_path / name, 'cpu', is_remote=True)['a.weight'], weights['a.weight'])


def test_hostile_and_damaged_files(tmp_path: Path) -> None:
    torch.save({'a': Planted(tmp_path / 'ran')}, tmp_path / 'hostile.pth')
    with pytest.raises(pickle.UnpicklingError):
        read_file(tmp_path / 'hostile.pth', is_remote=True)
    with (
        pytest.raises(ValueError, match=r'checkpoint NAME is refused: besides weights it holds .*mkdir'),
        saying_damage('NAME'),
    ):
        read_file(tmp_path / 'hostile.pth', is_remote=True)
    assert not (tmp_path / 'ran').exists()
    torch.save({'a': torch.arange(5000.0)}, tmp_path / 'whole.pth')
    content = bytearray((tmp_path / 'whole.pth').read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / 'flipped.pth').write_bytes(content)
    with pytest.raises(ValueError, match=r'flipped.pth cannot be read: .*Get it again'):
        read_file(tmp_path / 'flipped.pth', is_remote=True)
    (tmp_path / 'cut.safetensors').write_bytes(b'123456789')
    with pytest.raises(ValueError, match=r'cut.safetensors cannot be read, it is incomplete or damaged'):
        read_file(tmp_path / 'cut.safetensors')


def test_what_cannot_be_fetched_stays_an_oserror() -> None:
    with (
        pytest.raises(OSError, match='checkpoint NAME cannot be fetched: no route'),
        saying_damage('NAME', is_remote=True),
    ):
        raise OSError('no route')
    with pytest.raises(ValueError, match=r'checkpoint NAME cannot be read, .*OSError: no route'), saying_damage('NAME'):
        raise OSError('no route')
