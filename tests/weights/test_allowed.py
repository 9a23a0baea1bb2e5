"""What a checkpoint may hold besides weights, as PyTorch reads it and as we read it with an older PyTorch."""

import argparse
import codecs
import os
import pickle
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import POINTERS, Writer, make_pointers, place_gadget
from mmengine.logging import HistoryBuffer, MessageHub

from mmtwins.weights.allowed import (
    ALLOWED,
    CAN_ALLOW_TYPES,
    WeightsPickle,
    allow_mmengine_checkpoints,
    disallow_mmengine_checkpoints,
)


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Callable, *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple:
        return self.call

    def __str__(self) -> str:
        return f'{self.call[0].__name__} of {self.call[1]}'


def load_as_weights(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def load_with_an_older_torch(path: Path) -> Any:
    return torch.load(path, pickle_module=WeightsPickle)


READERS = [
    pytest.param(load_as_weights, marks=pytest.mark.skipif(not CAN_ALLOW_TYPES, reason='needs torch 2.6 or newer')),
    load_with_an_older_torch,
]


@pytest.mark.parametrize('load', READERS)
def test_message_hub_of_a_runner(load: Callable, tmp_path: Path) -> None:
    hub = MessageHub.get_instance(f'test_{load.__name__}')
    for value in (1.0, 2.0, 4.0):
        hub.update_scalar('train/loss', value)
    hub.update_info('best', np.float64(0.5))
    hub.update_info('count', np.int64(7))
    hub.update_info('flags', np.array([True, False]))
    hub.update_info('palette', np.array([[1, 2, 255]], np.uint8))
    torch.save({'message_hub': hub.state_dict(), 'state_dict': {'a': torch.ones(2)}}, tmp_path / 'a.pth')
    for _ in range(2):  # what was read is saved and read again
        whole = load(tmp_path / 'a.pth')
        torch.save(whole, tmp_path / 'a.pth')
    loaded = whole['message_hub']
    history = loaded['log_scalars']['train/loss']
    assert type(history) is HistoryBuffer
    assert history.data[0].tolist() == [1.0, 2.0, 4.0]
    assert history.statistics('mean') == pytest.approx(7 / 3)
    history.update(5.0)
    assert history.current() == 5
    assert loaded['runtime_info']['best'] == 0.5
    assert loaded['runtime_info']['count'] == 7
    assert loaded['runtime_info']['flags'].tolist() == [True, False]
    assert type(loaded['runtime_info']['palette']) is np.ndarray
    assert loaded['runtime_info']['palette'].tolist() == [[1, 2, 255]]
    assert whole['state_dict']['a'].tolist() == [1, 1]


@pytest.mark.parametrize('load', READERS)
def test_what_others_save_beside_weights(load: Callable, tmp_path: Path) -> None:
    content = {
        'model': torch.nn.Linear(2, 2).state_dict(),
        'parameter': torch.nn.Parameter(torch.ones(1)),
        'args': argparse.Namespace(lr=0.1),
        'plain': [1, 'a', None, True, 2**70, b'bytes', {3}, (1.5, 1j)],
        'size': torch.Size([1, 2]),
        'milestones': Counter([3, 3, 5]),
        'types': [torch.bool, torch.uint8, torch.bfloat16, torch.device('cpu')],
    }
    torch.save(content, tmp_path / 'a.pth')
    loaded = load(tmp_path / 'a.pth')
    assert loaded['args'].lr == 0.1
    assert loaded['plain'] == content['plain']
    assert loaded['size'] == content['size']
    assert type(loaded['milestones']) is Counter and loaded['milestones'] == {3: 2, 5: 1}
    assert loaded['types'] == content['types']
    assert type(loaded['parameter']) is torch.nn.Parameter
    assert all(torch.equal(loaded['model'][name], value) for name, value in content['model'].items())


@pytest.mark.parametrize('load', READERS)
def test_checkpoints_written_with_numpy_1_load(load: Callable, tmp_path: Path) -> None:
    # NumPy 1 named the module numpy.core; pickle's protocol 2 stores names as lines of text.
    torch.save({'array': np.arange(3.0), 'scalar': np.float32(2)}, tmp_path / 'a.pth', pickle_protocol=2)
    with zipfile.ZipFile(tmp_path / 'a.pth') as source, zipfile.ZipFile(tmp_path / 'old.pth', 'w') as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename.endswith('data.pkl'):
                content = content.replace(b'numpy._core.multiarray', b'numpy.core.multiarray')
                assert b'numpy.core.multiarray' in content
            target.writestr(entry, content)
    loaded = load(tmp_path / 'old.pth')
    assert loaded['array'].tolist() == [0.0, 1.0, 2.0]
    assert loaded['scalar'] == 2


@pytest.mark.parametrize('load', READERS)
@pytest.mark.parametrize(
    'planted',
    [
        Calls(os.mkdir, 'witness'),
        Calls(getattr, HistoryBuffer, '__init__'),
        Calls(getattr, HistoryBuffer, '__setstate__'),
        Calls(getattr, np.ndarray, 'tofile'),
        Calls(np.ndarray, (8,), 'O'),
        Calls(np.dtype, 'O'),
        Calls(HistoryBuffer, [1], [1]),
        np.array([os.mkdir]),
        np.array(['text']),
    ],
    ids=str,
)
def test_everything_else_is_refused(load: Callable, planted: object, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({'state_dict': {}, 'x': planted}, 'evil.pth')
    with pytest.raises(pickle.UnpicklingError):
        load(tmp_path / 'evil.pth')
    assert os.listdir() == ['evil.pth']


@pytest.mark.parametrize('load', READERS)
@pytest.mark.parametrize('kind', POINTERS)
def test_arrays_hold_no_pointers_of_numbers_in_a_file(load: Callable, kind: str, tmp_path: Path) -> None:
    writer = Writer(2)
    with zipfile.ZipFile(tmp_path / 'a.pth', 'w') as archive:
        archive.writestr('archive/data.pkl', place_gadget(make_pointers(kind, writer), 'state_dict', writer))
        archive.writestr('archive/version', b'3\n')
    try:
        array = load(tmp_path / 'a.pth')['state_dict']['a']
    except (pickle.UnpicklingError, TypeError, KeyError):
        return
    assert not array.dtype.hasobject
    assert array.dtype.names is None


@pytest.mark.parametrize('load', READERS)
def test_a_history_replaces_no_method(load: Callable, tmp_path: Path) -> None:
    history = HistoryBuffer([1.0, 3.0], [1, 1])
    history.__dict__.update(update=argparse.Namespace, _statistics_methods={'mean': argparse.Namespace})
    torch.save(history, tmp_path / 'a.pth')
    loaded = load(tmp_path / 'a.pth')
    assert loaded.statistics('mean') == 2
    assert set(loaded.__dict__) == {'_log_history', '_count_history', 'max_length'}
    history.__dict__['_log_history'] = argparse.Namespace()
    torch.save(history, tmp_path / 'a.pth')
    with pytest.raises(pickle.UnpicklingError, match='more than numbers'):
        load(tmp_path / 'a.pth')


@pytest.mark.parametrize('encoding', ['zlib', 'utf8', 'undefined'])
def test_bytes_are_made_of_text_by_no_other_codec(encoding: str, tmp_path: Path) -> None:
    torch.save({'x': Calls(codecs.encode, 'text', encoding)}, tmp_path / 'a.pth')
    with pytest.raises(pickle.UnpicklingError, match=f"GLOBAL _codecs.encode with the encoding '{encoding}'"):
        load_with_an_older_torch(tmp_path / 'a.pth')
    torch.save({'x': Calls(codecs.encode, '\xe9', 'latin1')}, tmp_path / 'a.pth')
    assert load_with_an_older_torch(tmp_path / 'a.pth') == {'x': b'\xe9'}


@pytest.mark.skipif(not CAN_ALLOW_TYPES, reason='needs torch 2.6 or newer')
def test_what_is_allowed_can_be_taken_back_and_what_others_allow_stays(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    torch.save(HistoryBuffer([1.0], [1]), tmp_path / 'a.pth')
    torch.save(np.array(['text']), tmp_path / 'b.pth')
    others = [np.ndarray, np.dtype, type(np.dtype('U4')), np._core.multiarray._reconstruct]
    torch.serialization.add_safe_globals(others)
    try:
        assert load_as_weights(tmp_path / 'b.pth').tolist() == ['text']
        assert load_as_weights(tmp_path / 'a.pth').data[0].tolist() == [1]
        disallow_mmengine_checkpoints()
        assert set(torch.serialization.get_safe_globals()) == (before - set(ALLOWED)) | set(others)
        assert load_as_weights(tmp_path / 'b.pth').tolist() == ['text']
        with pytest.raises(pickle.UnpicklingError):
            load_as_weights(tmp_path / 'a.pth')
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(list(before - set(ALLOWED)))
        allow_mmengine_checkpoints()
    assert set(torch.serialization.get_safe_globals()) == before
