"""Reading MMEngine's checkpoints safely, refusing what would run code or load nothing."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub

from mmtwins.checkpoint import check_weights_fit

needs_safe_loading = pytest.mark.skipif(
    not hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint'), reason='needs torch 2.6 or newer'
)


class RunsCommand:
    """Pickles as a call of ``os.system``."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


class LooksUp:
    """Pickles as ``getattr(owner, name)``."""

    def __init__(self, owner: object, name: str) -> None:
        self.owner, self.name = owner, name

    def __reduce__(self) -> tuple:
        return getattr, (self.owner, self.name)


@needs_safe_loading
def test_message_hub_of_a_runner_loads_with_weights_only(tmp_path: Path) -> None:
    hub = MessageHub.get_instance('test_checkpoint')
    for value in (1.0, 2.0, 4.0):
        hub.update_scalar('train/loss', value)
    hub.update_info('best', np.float64(0.5))
    hub.update_info('count', np.int64(7))
    hub.update_info('flags', np.array([True, False]))
    torch.save({'message_hub': hub.state_dict(), 'state_dict': {}}, tmp_path / 'a.pth')
    loaded = torch.load(tmp_path / 'a.pth', weights_only=True)['message_hub']
    history = loaded['log_scalars']['train/loss']
    assert isinstance(history, HistoryBuffer)
    assert history.data[0].tolist() == [1.0, 2.0, 4.0]
    assert history.statistics('mean') == pytest.approx(7 / 3)
    assert loaded['runtime_info']['best'] == 0.5
    assert loaded['runtime_info']['count'] == 7
    assert loaded['runtime_info']['flags'].tolist() == [True, False]


@needs_safe_loading
def test_checkpoints_written_with_numpy_1_load(tmp_path: Path) -> None:
    # NumPy 1 named the module numpy.core; pickle's protocol 2 stores names as lines of text.
    torch.save({'array': np.arange(3.0), 'scalar': np.float32(2)}, tmp_path / 'a.pth', pickle_protocol=2)
    with zipfile.ZipFile(tmp_path / 'a.pth') as source, zipfile.ZipFile(tmp_path / 'old.pth', 'w') as target:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename.endswith('data.pkl'):
                assert b'numpy._core.multiarray' in content
                content = content.replace(b'numpy._core.multiarray', b'numpy.core.multiarray')
            target.writestr(entry, content)
    loaded = torch.load(tmp_path / 'old.pth', weights_only=True)
    assert loaded['array'].tolist() == [0.0, 1.0, 2.0]
    assert loaded['scalar'] == 2


@needs_safe_loading
def test_planted_command_is_refused_and_does_not_run(tmp_path: Path) -> None:
    witness = tmp_path / 'witness'
    torch.save({'state_dict': {}, 'meta': RunsCommand(f'touch {witness}')}, tmp_path / 'evil.pth')
    with pytest.raises(pickle.UnpicklingError, match='system'):
        torch.load(tmp_path / 'evil.pth', weights_only=True)
    assert not witness.exists()


@needs_safe_loading
@pytest.mark.parametrize(
    ('owner', 'name'), [(HistoryBuffer, '__init__'), (HistoryBuffer, '__setstate__'), (np.ndarray, 'tofile')]
)
def test_look_ups_other_than_of_statistics_are_refused(tmp_path: Path, owner: type, name: str) -> None:
    torch.save({'x': LooksUp(owner, name)}, tmp_path / 'evil.pth')
    with pytest.raises((pickle.UnpicklingError, ValueError), match=r'may not look up|Unsupported|not allowed'):
        torch.load(tmp_path / 'evil.pth', weights_only=True)


def test_safe_loading_is_switched_off_nowhere() -> None:
    repository = Path(__file__).parents[1]
    variable = 'TORCH_FORCE_NO_' + 'WEIGHTS_ONLY_LOAD'
    files = [
        path for folder in ('mmtwins', 'tools', 'configs', 'tests', '.ci') for path in (repository / folder).rglob('*')
    ]
    for path in [*files, repository / 'Makefile', repository / 'setup.py']:
        if path.is_file() and path.suffix not in ('.pyc', '.json'):
            text = path.read_text()
            assert variable not in text, path
            assert 'weights_only=False' not in text or path == Path(__file__), path


@pytest.mark.parametrize(
    'given',
    [
        {},
        {'conv1.weight': torch.zeros(1)},
        {'a.weight': torch.zeros(3)},  # the right name, another shape
        {'weight': torch.zeros(2)},  # another prefix
    ],
)
def test_a_state_dict_without_any_fitting_weight_is_refused(given: dict) -> None:
    with pytest.raises(ValueError, match=r'no weight in the checkpoint fits.*a\.weight \(2,\)'):
        check_weights_fit(given, {'a.weight': torch.zeros(2), 'a.bias': torch.zeros(2)})


def test_one_fitting_weight_is_enough_for_a_partial_checkpoint() -> None:
    check_weights_fit({'a.bias': torch.zeros(2)}, {'a.weight': torch.zeros(2), 'a.bias': torch.zeros(2)})
