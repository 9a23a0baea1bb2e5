"""The sweep over all folders: what it tries, keeps and says."""

import json
from pathlib import Path

import pytest

from mmtwins.swapping import sweep as module
from mmtwins.swapping.sweep import _candidates, _in_a_process, folders, sweep, try_config

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')


def test_every_folder_of_configs_is_there() -> None:
    assert len(folders('mmseg')) == 53
    assert {'hrnet', 'gn+ws', 'soft_teacher', 'bytetrack'} <= set(folders('mmdet'))
    assert not {'_base_', 'common'} & set(folders('mmdet'))


def test_typical_configs_come_first_and_c4_last() -> None:
    names = _candidates('mmdet', 'faster_rcnn')
    assert names[0].startswith('faster-rcnn_r50')
    assert 'c4' in names[-1]
    assert _candidates('mmdet', 'bytetrack')[0].startswith('bytetrack_')  # and not its detector alone


def test_what_was_found_is_kept_and_what_failed_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def best(library: str, folder: str, arch: str) -> dict:
        tried.append(folder)
        state = 'failed' if folder == 'b' and len(tried) < 3 else 'works'
        return dict(library=library, folder=folder, config='x.py', state=state)

    monkeypatch.setattr(module, '_best', best)
    monkeypatch.setattr(module, 'LIBRARIES', ('mmseg',))
    monkeypatch.setattr(module, 'folders', lambda library: ['a', 'b'])
    assert [result['state'] for result in sweep(tmp_path)] == ['works', 'failed']
    assert [result['state'] for result in sweep(tmp_path)] == ['works', 'failed']
    assert tried == ['a', 'b']
    assert [result['state'] for result in sweep(tmp_path, again=True)] == ['works', 'works']
    assert tried == ['a', 'b', 'b']
    (tmp_path / 'mmseg-a.json').unlink()
    assert [result['folder'] for result in sweep(tmp_path, kept=True)] == ['b']
    assert json.loads((tmp_path / 'mmseg-b.json').read_text())['state'] == 'works'


def test_a_refusal_and_a_missing_package_are_told_apart() -> None:
    refused = try_config('mmdet::cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py', 'svt-s')
    assert refused['state'] == 'refused'
    assert 'hourglass' in refused['reason']
    missing = try_config('mmseg::poolformer/fpn_poolformer_s12_8xb4-40k_ade20k-512x512.py', 'svt-s')
    assert missing['state'] in ('missing', 'works')  # with mmpretrain


def test_a_config_has_a_process_of_its_own_with_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import time

    monkeypatch.setattr(module, 'try_config', lambda base, arch: dict(state='works', pid=os.getpid()))
    assert _in_a_process('a', 'svt-s')['pid'] != os.getpid()
    monkeypatch.setattr(module, 'try_config', lambda base, arch: os._exit(1))
    assert _in_a_process('a', 'svt-s') == dict(state='failed', reason='the process died')
    monkeypatch.setattr(module, 'SECONDS', 1)
    monkeypatch.setattr(module, 'try_config', lambda base, arch: time.sleep(30))
    assert _in_a_process('a', 'svt-s')['state'] == 'failed'
