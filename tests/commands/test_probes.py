"""What `mmtwins doctor` tries out: versions, mmcv's operators, GPU, backbone, caches."""

import os
from pathlib import Path

import pytest
import torch

from mmtwins.commands import probes
from mmtwins.commands.probes import cache_folders, describe_cache, free_bytes, probe


def test_a_version_is_that_of_what_is_imported() -> None:
    assert probe('torch') == {'version': torch.__version__}
    with pytest.raises(ModuleNotFoundError):
        probe('no_such_module')


def test_the_backbone_and_the_gpu() -> None:
    assert probe('backbone') == {'shapes': [[1, 32, 8, 8], [1, 32, 4, 4], [1, 32, 2, 2], [1, 32, 1, 1]]}
    found = probe('GPU')
    assert found['cuda_build'] == torch.version.cuda
    assert len(found['gpus']) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
    if not torch.cuda.is_available():
        assert probe('mmcv operators on the GPU') == {'skipped': 'there is no GPU'}


def test_mmcvs_operators_run_and_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip('mmcv._ext')
    assert probe('mmcv operators') == {'device': 'cpu'}
    monkeypatch.setattr('mmcv.ops.roi_align', lambda maps, *_: maps[..., :2, :2] * 2)
    with pytest.raises(RuntimeError, match='roi_align of a map of ones gives'):
        probe('mmcv operators')
    monkeypatch.setattr('mmcv.ops.nms', lambda boxes, *_: (boxes, torch.tensor([0, 1, 2])))
    with pytest.raises(RuntimeError, match=r'nms keeps boxes \[0, 1, 2\]'):
        probe('mmcv operators')


def test_caches_lie_where_their_libraries_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('HF_HOME', 'HF_HUB_CACHE', 'TORCH_HOME'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert list(cache_folders().values()) == [
        tmp_path / 'huggingface/hub', tmp_path / 'torch/hub/checkpoints', tmp_path / 'mmtwins/data',
    ]  # fmt: skip
    monkeypatch.setenv('HF_HOME', str(tmp_path / 'hf'))
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 't'))
    assert list(cache_folders().values())[:2] == [tmp_path / 'hf/hub', tmp_path / 't/hub/checkpoints']
    assert Path(torch.hub.get_dir()) / 'checkpoints' == cache_folders()['torch']


def test_what_lies_in_a_cache(tmp_path: Path) -> None:
    (tmp_path / 'model/blobs').mkdir(parents=True)
    (tmp_path / 'model/blobs/one').write_bytes(b'x' * 300)
    (tmp_path / 'model/link').symlink_to(tmp_path / 'model/blobs/one')  # as the hub's cache has them
    (tmp_path / 'hash').mkdir()
    (tmp_path / 'hash/weights.pth').write_bytes(b'x' * 500)
    (tmp_path / 'hash/weights.pth.lock').touch()
    (tmp_path / 'empty').mkdir()
    found = describe_cache(tmp_path)
    assert found == {'folder': str(tmp_path), 'bytes': 800, 'entries': {'hash/weights.pth': 500, 'model/blobs': 300}}
    assert list(found['entries']) == ['hash/weights.pth', 'model/blobs']
    assert describe_cache(tmp_path / 'none') == {'folder': str(tmp_path / 'none'), 'bytes': 0, 'entries': {}}


def test_free_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = os.statvfs(tmp_path)
    found = free_bytes(tmp_path / 'not' / 'yet')
    assert found is not None and abs(found - stat.f_bavail * stat.f_frsize) < 2**30

    def fail(path: Path) -> None:
        raise OSError

    monkeypatch.setattr(probes.shutil, 'disk_usage', fail)
    assert free_bytes(tmp_path) is None
