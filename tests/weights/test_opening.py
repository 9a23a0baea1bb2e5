"""Files that are looked at before they are read, and what a checkpoint may not claim or ask for."""

import os
import zipfile
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmtwins.weights import opening
from mmtwins.weights.loading import load_safely
from mmtwins.weights.opening import DamagedError, largest_size, printable, read_file


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    torch.save({'state_dict': {'a': torch.arange(300.0)}, 'meta': {'iter': 3}}, tmp_path / 'a.pth')
    return tmp_path / 'a.pth'


def test_the_formats_of_pytorch(whole: Path, tmp_path: Path) -> None:
    torch.save(torch.load(whole), tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    for path in (whole, tmp_path / 'old.pth'):
        for mmap in (False, True):
            assert read_file(path, mmap=mmap)['state_dict']['a'].tolist() == list(range(300))
        assert read_file(path, 'meta')['state_dict']['a'].is_meta


def test_a_checkpoint_that_somebody_has_packed_is_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save({'a': torch.randn(10**5)}, tmp_path / 'a.pth')
    with zipfile.ZipFile(tmp_path / 'a.pth') as source, zipfile.ZipFile(tmp_path / 'b.pth', 'w', 8) as target:
        for entry in source.namelist():
            target.writestr(entry, source.read(entry))
    assert torch.equal(read_file(tmp_path / 'b.pth')['a'], read_file(tmp_path / 'a.pth')['a'])


def test_bombs_are_refused_before_they_are_unpacked(tmp_path: Path, monkeypatch) -> None:
    with zipfile.ZipFile(tmp_path / 'a.pth', 'w', 8) as archive:
        archive.writestr('archive/data.pkl', bytes(10**7))
    monkeypatch.setattr(zipfile.ZipFile, 'testzip', None)
    monkeypatch.setattr(torch, 'load', None)
    with pytest.raises(ValueError, match=r'is refused: its 0\.0 MB unpack to 10\.0 MB, and weights do not'):
        read_file(tmp_path / 'a.pth')


def test_the_largest_size_is_64_gib_or_the_memory(monkeypatch) -> None:
    monkeypatch.delenv('MMTWINS_MAX_CHECKPOINT_GIB', raising=False)
    monkeypatch.setattr(os, 'sysconf', lambda name: dict(SC_PHYS_PAGES=2**30, SC_PAGE_SIZE=4096)[name])
    assert largest_size() == 64 * 2**30
    monkeypatch.setattr(os, 'sysconf', lambda name: dict(SC_PHYS_PAGES=2**20, SC_PAGE_SIZE=4096)[name])
    assert largest_size() == 4 * 2**30
    monkeypatch.setenv('MMTWINS_MAX_CHECKPOINT_GIB', '0.5')
    assert largest_size() == 2**29
    for wrong in ('much', 'nan', 'inf'):
        monkeypatch.setenv('MMTWINS_MAX_CHECKPOINT_GIB', wrong)
        with pytest.raises(ValueError, match=f'MMTWINS_MAX_CHECKPOINT_GIB={wrong}: give a number of GiB, such as 64'):
            largest_size()


@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors'])
def test_files_that_are_too_large_are_not_opened(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv('MMTWINS_MAX_CHECKPOINT_GIB', '2')
    with (tmp_path / name).open('wb') as file:
        file.truncate(3 * 2**30)
    monkeypatch.setattr(Path, 'open', None)
    with pytest.raises(
        ValueError,
        match=r'is 3\.0 GiB, too large for a model: more than 2\.0 GiB are not read\. MMTWINS_MAX_CHECKPOINT_GIB',
    ):
        read_file(tmp_path / name)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'loop').symlink_to('loop')
    for path, what in {
        tmp_path: 'is a folder',
        tmp_path / 'pipe': 'is a device or a pipe',
        Path('/dev/zero'): 'is a device or a pipe',
        tmp_path / 'loop': 'does not exist',
        tmp_path / ('a' * 300): 'does not exist',
    }.items():
        with pytest.raises(FileNotFoundError, match=f'{what}: give the path of a .pth or .safetensors file'):
            read_file(path)


@pytest.mark.parametrize(
    ('content', 'what'),
    [
        (b'', 'it is empty'),
        (b'\n <!DOCTYPE html><html>', 'it is a web page, not a checkpoint'),
        (b'noise', 'it is incomplete or no checkpoint|holds something'),
        (b'PK\x03\x04', 'it is incomplete'),
        (bytes(1024), 'it is a .tar file'),
    ],
)
def test_files_of_others(content: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / 'a.pth').write_bytes(content)
    with pytest.raises(ValueError, match=what):
        read_file(tmp_path / 'a.pth')


def test_torchscript_is_refused(tmp_path: Path) -> None:
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='is refused: it is a TorchScript program, which could run code'):
        read_file(tmp_path / 'a.pth')


def test_damage_is_found_with_tensors_left_on_the_disk(whole: Path) -> None:
    content = bytearray(whole.read_bytes())
    content[content.index(b'\x80\x02}')] = 0
    whole.write_bytes(content)
    for mmap in (False, True):
        with pytest.raises(DamagedError, match=r'the checksum of .*data\.pkl is wrong'):
            read_file(whole, mmap=mmap)


def test_tensors_claim_no_more_than_the_file_holds(tmp_path: Path) -> None:
    torch.save({'a': torch.zeros(1).expand(2**40)}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'its tensors would take 4,398,046\.5 MB, and the file has 0\.0 MB'):
        read_file(tmp_path / 'a.pth')
    torch.save({'a': torch.zeros(1).expand(1000)}, tmp_path / 'a.pth')
    assert read_file(tmp_path / 'a.pth')['a'].shape == (1000,)


def test_dicts_in_themselves_are_refused(tmp_path: Path) -> None:
    around: dict = {'a': torch.ones(1)}
    around['state_dict'] = around
    torch.save(around, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='its dicts lie inside each other without end'):
        read_file(tmp_path / 'a.pth')


@pytest.mark.parametrize('kind', ['sparse', 'meta', 'quantized'])
def test_tensors_that_no_model_has_are_named(kind: str, tmp_path: Path) -> None:
    tensor = dict(
        sparse=torch.eye(2).to_sparse(),
        meta=torch.empty(2, device='meta'),
        quantized=torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8),
    )[kind]
    torch.save({'state_dict': {'a': tensor}}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='holds a tensor that is sparse, quantized, nested or without values'):
        load_safely(str(tmp_path / 'a.pth'))


def test_what_mmengine_would_run_or_delete_on_resume_is_left_out(tmp_path: Path) -> None:
    notes = {
        'best_ckpt': str(tmp_path / 'thesis.tex'),
        'best_ckpt_mIoU': '/runs/a/best_mIoU_iter_8000.pth',
        'best_score': 1.0,
        'cfg': 'a = 1',
    }
    content = {
        'state_dict': {},
        'meta': {'config': 'import os; os.mkdir("mark")', 'iter': 7},
        'message_hub': {'runtime_info': notes, 'log_scalars': {'x': HistoryBuffer([1], [1])}},
    }
    torch.save(content, tmp_path / 'a.pth')
    found = read_file(tmp_path / 'a.pth')
    assert found['meta'] == {'iter': 7}
    assert found['message_hub']['runtime_info'] == {key: value for key, value in notes.items() if key != 'best_ckpt'}


def test_names_with_control_characters_are_written_as_python_does() -> None:
    assert printable('two words.pth') == 'two words.pth'
    assert printable('a\nb\x1b[2J.pth') == r"'a\nb\x1b[2J.pth'"


def test_the_limits_are_those_of_the_documentation() -> None:
    assert (opening.LARGEST, opening.UNPACKED) == (64, 4)
