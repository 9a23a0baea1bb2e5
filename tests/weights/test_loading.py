"""Reading checkpoints: safely, from .safetensors, from URLs and from the hub."""

import argparse
import inspect
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint
from safetensors.torch import save_file
from server import serve
from torch import Tensor

from mmtwins import TwinsSVTBackbone
from mmtwins.weights import loading
from mmtwins.weights.loading import (
    keep_for_next_read,
    load_from_hub,
    read_checkpoint,
    replace_mmengine_loaders,
    restore_mmengine_loaders,
)

TINY = dict(
    arch=dict(embed_dims=(8, 16), depths=(2, 2), num_heads=(1, 2), mlp_ratios=(2, 2)),
    window_sizes=(7, 7),
    sr_ratios=(2, 1),
    out_indices=(0, 1),
)


class RunsCommand:
    """Pickles as a call of ``os.system``."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


def test_safe_loading_is_switched_off_nowhere() -> None:
    repository = Path(__file__).parents[2]
    variable = 'TORCH_FORCE_NO_' + 'WEIGHTS_ONLY_LOAD'
    files = [
        path for folder in ('mmtwins', 'tools', 'configs', 'tests', '.ci') for path in (repository / folder).rglob('*')
    ]
    for path in [*files, repository / 'Makefile', repository / 'setup.py']:
        if path.is_file() and path.suffix not in ('.pyc', '.json'):
            text = path.read_text()
            assert variable not in text, path
            assert 'weights_only=False' not in text or path == Path(__file__), path


@pytest.fixture
def weights() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return {name: torch.randn_like(value) for name, value in TwinsSVTBackbone(**TINY).state_dict().items()}


def assert_loaded(checkpoint: str, weights: dict[str, Tensor]) -> None:
    """``init_cfg`` and read_checkpoint give exactly these weights."""
    assert_equal(read_checkpoint(checkpoint), weights)
    model = TwinsSVTBackbone(**TINY, init_cfg=dict(type='Pretrained', checkpoint=checkpoint))
    model.init_weights()
    assert_equal(model.state_dict(), weights)


def assert_equal(given: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert given.keys() == expected.keys()
    assert all(torch.equal(given[name], expected[name]) for name in expected)


def test_training_options_beside_the_weights_are_read(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    # The public ImageNet training code saves its argparse options and 'model' instead of 'state_dict'.
    torch.save({'model': weights, 'args': argparse.Namespace(lr=1e-3), 'epoch': 3}, tmp_path / 'a.pth')
    assert_loaded(str(tmp_path / 'a.pth'), weights)


@pytest.mark.parametrize('name', ['a.safetensors', 'two words.safetensors'])
def test_safetensors_files(tmp_path: Path, weights: dict[str, Tensor], name: str) -> None:
    save_file(weights, tmp_path / name)
    assert_loaded(str(tmp_path / name), weights)
    loaded = CheckpointLoader.load_checkpoint(str(tmp_path / name), map_location='meta')
    assert all(value.is_meta for value in loaded.values())


def test_damaged_and_missing_files_are_named(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    save_file(weights, tmp_path / 'a.safetensors')
    torch.save(weights, tmp_path / 'a.pth')
    for suffix in ('safetensors', 'pth'):
        half = tmp_path / f'half.{suffix}'
        half.write_bytes((tmp_path / f'a.{suffix}').read_bytes()[: (tmp_path / f'a.{suffix}').stat().st_size // 2])
        with pytest.raises(ValueError, match=rf'half\.{suffix} cannot be read, it is incomplete'):
            read_checkpoint(str(half))
        with pytest.raises(FileNotFoundError, match=rf'absent\.{suffix}'):
            read_checkpoint(str(tmp_path / f'absent.{suffix}'))
        with pytest.raises(FileNotFoundError, match=rf'absent\.{suffix}'):
            CheckpointLoader.load_checkpoint(str(tmp_path / f'absent.{suffix}'))


def test_what_was_read_is_handed_out_once(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    path = str(tmp_path / 'a.pth')
    torch.save(weights, path)
    kept = {'state_dict': {}}
    keep_for_next_read({path: kept, 'http://nowhere/a.pth': kept})
    assert CheckpointLoader.load_checkpoint(path) is kept
    assert CheckpointLoader.load_checkpoint('http://nowhere/a.pth') is kept
    assert_equal(CheckpointLoader.load_checkpoint(path), weights)
    keep_for_next_read({path: kept})
    keep_for_next_read({})
    assert_equal(CheckpointLoader.load_checkpoint(path), weights)


@pytest.fixture
def served(tmp_path: Path, monkeypatch) -> Iterator[tuple[Path, str]]:
    """A folder and its URL; what is fetched from it is kept in a cache of the test's own."""
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'cache'))
    with serve(tmp_path / 'served') as server:
        yield server.folder, server.url


@pytest.mark.parametrize('suffix', ['safetensors', 'pth'])
def test_urls(served: tuple[Path, str], weights: dict[str, Tensor], suffix: str) -> None:
    folder, url = served
    save = save_file if suffix == 'safetensors' else torch.save
    save(weights, folder / f'twins.{suffix}')
    assert_loaded(f'{url}/twins.{suffix}?download=true', weights)
    (folder / f'twins.{suffix}').unlink()
    assert_loaded(f'{url}/twins.{suffix}?download=true', weights)  # from the cache
    with pytest.raises(OSError, match=r'twins\.\w+ cannot be fetched: HTTP Error 404'):
        read_checkpoint(f'{url}/twins.{suffix}')


def test_files_of_one_name_from_two_urls_are_kept_apart(
    served: tuple[Path, str], weights: dict[str, Tensor], tmp_path: Path
) -> None:
    folder, url = served
    others = {name: value + 1 for name, value in weights.items()}
    for name, content in (('a', weights), ('b', others)):
        (folder / name).mkdir()
        save_file(content, folder / name / 'model.safetensors')
    assert_equal(read_checkpoint(f'{url}/a/model.safetensors'), weights)
    assert_equal(read_checkpoint(f'{url}/b/model.safetensors'), others)
    # A name with a hash of the content says what it is wherever it lies: torch and OpenMMLab keep it under its name.
    (tmp_path / 'cache' / 'checkpoints').mkdir(parents=True, exist_ok=True)
    torch.save(weights, tmp_path / 'cache' / 'checkpoints' / 'twins-0123abcd.pth')
    assert_equal(read_checkpoint(f'{url}/absent/twins-0123abcd.pth'), weights)


@pytest.fixture
def hostile(served: tuple[Path, str], tmp_path: Path) -> Iterator[str]:
    """URL of a checkpoint that touches a file when its code runs; after the test, that file must not be there."""
    folder, url = served
    witness = tmp_path / 'witness'
    torch.save({'state_dict': {'a': torch.ones(1)}, 'meta': RunsCommand(f'touch {witness}')}, folder / 'evil.pth')
    torch.load(folder / 'evil.pth', **{'weights_only': False})  # the control: it does run where it is trusted
    assert witness.exists()
    witness.unlink()
    yield f'{url}/evil.pth'
    assert not witness.exists(), 'the code in the checkpoint ran'


def test_hostile_urls_run_nothing_through_any_scheme(hostile: str, tmp_path: Path, monkeypatch) -> None:
    content = (tmp_path / 'served' / 'evil.pth').read_bytes()
    for function in ('get_torchvision_models', 'get_external_models', 'get_mmcls_models'):
        monkeypatch.setattr(mmengine_checkpoint, function, lambda: {'evil': hostile})
    backend = SimpleNamespace(get=lambda name: content)
    monkeypatch.setattr(loading, 'get_file_backend', lambda *args, **kwargs: backend)
    model = SimpleNamespace(name='evil.pth', download=lambda path: Path(path).write_bytes(content))
    pavi = SimpleNamespace(modelcloud=SimpleNamespace(get=lambda name: model))
    monkeypatch.setitem(sys.modules, 'pavi', pavi)
    monkeypatch.setattr(loading, 'fetch_imagenet_weights', lambda name: tmp_path / 'served' / f'{name}.pth')
    names = [
        'imagenet:evil',
        'modelzoo://evil',
        'torchvision://evil',
        'open-mmlab://evil',
        'openmmlab://evil',
        'mmcls://evil',
    ]
    names += ['s3://evil', 'petrel://evil', 'cluster:s3://evil', 'pavi://evil', hostile, hostile + '?v=1']
    if find_spec('huggingface_hub'):
        monkeypatch.setattr(
            'huggingface_hub.hf_hub_download', lambda *args, **kwargs: str(tmp_path / 'served' / 'evil.pth')
        )
        names += ['hf-hub:someone/evil', 'hf_hub:someone/evil/evil.pth']
    for name in names:
        for read in (read_checkpoint, CheckpointLoader.load_checkpoint):
            with pytest.raises(ValueError, match='could run code'):
                read(name)


def test_every_scheme_of_mmengine_is_read_by_this_package() -> None:
    assert {loader.__module__ for loader in CheckpointLoader._schemes.values()} == {'mmtwins.weights.loading'}


@pytest.fixture
def restored() -> Iterator[None]:
    restore_mmengine_loaders()
    yield
    replace_mmengine_loaders()


def test_mmengine_gets_its_loaders_back(restored: None, tmp_path: Path) -> None:
    assert {loader.__module__ for loader in CheckpointLoader._schemes.values()} == {'mmengine.runner.checkpoint'}
    assert not any(pattern.startswith('hf') for pattern in CheckpointLoader._schemes)
    witness = tmp_path / 'witness'
    torch.save({'state_dict': {}, 'meta': RunsCommand(f'touch {witness}')}, tmp_path / 'evil.pth')
    with pytest.raises(ValueError, match='is refused'):  # this package still reads as weights only
        read_checkpoint(str(tmp_path / 'evil.pth'))
    assert not witness.exists()


def test_loaders_are_replaced_and_restored_as_often_as_one_likes() -> None:
    before = dict(CheckpointLoader._schemes)
    restore_mmengine_loaders()
    own = dict(CheckpointLoader._schemes)
    restore_mmengine_loaders()
    assert CheckpointLoader._schemes == own
    replace_mmengine_loaders()
    replace_mmengine_loaders()
    assert CheckpointLoader._schemes == before
    restore_mmengine_loaders()
    assert CheckpointLoader._schemes == own
    replace_mmengine_loaders()


def test_readers_that_trust_files_are_replaced(tmp_path: Path, monkeypatch) -> None:
    # MMEngine 0.11.0rc0 and onedl-mmengine 0.10.12 switch safe reading off themselves.
    def trusting(filename: str, map_location: object = None) -> object:
        return torch.load(filename, map_location=map_location, **{'weights_only': False})

    restore_mmengine_loaders()
    before = dict(CheckpointLoader._schemes)
    witness = tmp_path / 'witness'
    torch.save({'state_dict': {}, 'meta': RunsCommand(f'touch {witness}')}, tmp_path / 'evil.pth')
    try:
        for pattern in before:
            CheckpointLoader._schemes[pattern] = trusting
        CheckpointLoader.load_checkpoint(str(tmp_path / 'evil.pth'))
        assert witness.exists()  # the control
        witness.unlink()
        replace_mmengine_loaders()
        with pytest.raises(ValueError, match='is refused'):
            CheckpointLoader.load_checkpoint(str(tmp_path / 'evil.pth'))
        assert not witness.exists()
    finally:
        restore_mmengine_loaders()
        CheckpointLoader._schemes.update(before)
        replace_mmengine_loaders()


def test_schemes_of_others_are_theirs(monkeypatch) -> None:
    def load(filename: str, map_location: object = None) -> dict:
        return {'weight': torch.full((1,), 7.0)}

    monkeypatch.setattr(CheckpointLoader, '_schemes', {'own://': load, **CheckpointLoader._schemes})
    assert read_checkpoint('own://a')['weight'] == 7


def test_an_inferencer_runs_no_config_from_a_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip('mmseg')
    from mmseg.apis import MMSegInferencer

    witness = tmp_path / 'witness'
    for key, text in enumerate(
        (f'import os; os.mkdir({str(witness)!r})', f'model = dict(type="os.mkdir", path={str(witness)!r})')
    ):
        notes = {'cfg': text}
        torch.save({'state_dict': {}, 'meta': notes, 'message_hub': {'runtime_info': notes}}, tmp_path / f'{key}.pth')
        with pytest.raises(ValueError, match='this config stands in a checkpoint and could run code'):
            MMSegInferencer(None, weights=str(tmp_path / f'{key}.pth'), device='cpu')
        assert not witness.exists()


@pytest.mark.parametrize(
    'note', [lambda text: {'meta': {'cfg': text}}, lambda text: {'message_hub': {'runtime_info': {'cfg': text}}}]
)
def test_the_text_of_a_config_is_refused_once_it_stood_in_a_checkpoint(note: Callable, tmp_path: Path) -> None:
    text = f'place = {str(tmp_path)!r}'
    assert Config.fromstring(text, '.py').place == str(tmp_path)
    torch.save({'state_dict': {}, **note(text)}, tmp_path / 'noted.pth')
    CheckpointLoader.load_checkpoint(str(tmp_path / 'noted.pth'))
    with pytest.raises(ValueError, match='give the config as a file'):
        Config.fromstring(text, '.py')
    with pytest.raises(ValueError, match='give the config as a file'):
        Config.fromstring(file_format='.py', cfg_str=text)
    assert Config.fromstring.__wrapped__(text, '.py').place == str(tmp_path)  # the control
    assert Config.fromstring(f'{text} + ""', file_format='.py').place == str(tmp_path)


def test_config_fromstring_is_as_before_for_other_texts() -> None:
    changed, own = Config.fromstring, Config.fromstring.__wrapped__
    assert changed is not own
    assert inspect.signature(changed) == inspect.signature(own)
    assert changed('{"a": 1}', file_format='.json').a == own('{"a": 1}', '.json').a == 1
    for wrong in ((['a'], '.py'), ('unread = 1', '.txt'), ('{', '.json')):
        raised = []
        for read in (changed, own):
            with pytest.raises(Exception) as error:  # whatever MMEngine raises
                read(*wrong)
            raised.append(type(error.value))
        assert raised[0] is raised[1], wrong


def test_config_fromstring_is_restored() -> None:
    own = Config.fromstring.__wrapped__
    try:
        for _ in range(2):
            restore_mmengine_loaders()
            assert Config.fromstring is own
            assert isinstance(vars(Config)['fromstring'], staticmethod)
    finally:
        replace_mmengine_loaders()
    replace_mmengine_loaders()
    assert Config.fromstring.__wrapped__ is own


def test_hostile_urls_run_nothing_through_mmengine_and_mmseg(hostile: str, tmp_path: Path) -> None:
    from mmengine.runner import load_checkpoint

    model = TwinsSVTBackbone(**TINY, init_cfg=dict(type='Pretrained', checkpoint=hostile))
    with pytest.raises(ValueError, match='is refused'):
        model.init_weights()
    with pytest.raises(ValueError, match='is refused'):
        load_checkpoint(model, hostile)


TOY_CONFIG = Path(__file__).parents[2] / 'configs/toy/upernet_twins-svt-toy_1xb8-1600iters_toy-ade-128x128.py'


@pytest.mark.parametrize(
    'command',
    [
        'train CONFIG --cfg-options load_from=URL',
        'train CONFIG --resume URL',
        'train CONFIG --cfg-options model.backbone.init_cfg.type=Pretrained model.backbone.init_cfg.checkpoint=URL',
        'test CONFIG URL',
        'infer CONFIG URL IMAGE --out out',
        'convert_checkpoint URL out.pth --to timm',
        'export_onnx CONFIG URL out.onnx',
        'app CONFIG URL',
        'visualize_attention CONFIG URL IMAGE --points 4 4',
    ],
)
def test_hostile_urls_run_nothing_through_the_tools(
    command: str, hostile: str, toy_data: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    pytest.importorskip('mmseg')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').symlink_to(toy_data.parent)
    image = next((toy_data / 'ade/images/validation').iterdir())
    name, *args = command.split()
    values = dict(CONFIG=str(TOY_CONFIG), URL=hostile, IMAGE=str(image))
    for key, value in values.items():
        args = [arg.replace(key, value) for arg in args]
    monkeypatch.setattr(sys, 'argv', [name, *args])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(Path(__file__).parents[2] / 'tools' / f'{name}.py'), run_name='__main__')
    assert 'is refused' in str(stopped.value)
    assert hostile in str(stopped.value)


@pytest.mark.parametrize(
    ('reference', 'revision', 'file'),
    [
        ('hf-hub:timm/twins_svt_small.in1k', None, 'model.safetensors'),
        ('hf_hub:timm/twins_svt_small.in1k@v1.0', 'v1.0', 'model.safetensors'),
        ('hf-hub:someone/twins/weights/a.safetensors', None, 'weights/a.safetensors'),
        ('hf-hub:someone/twins@main/a.pth', 'main', 'a.pth'),
        ('hf-hub:someone/old', None, 'pytorch_model.bin'),
    ],
)
def test_hub_references(
    tmp_path: Path, weights: dict[str, Tensor], monkeypatch, reference: str, revision: str | None, file: str
) -> None:
    hub = pytest.importorskip('huggingface_hub')
    from huggingface_hub.errors import EntryNotFoundError

    asked = []

    def download(repository: str, name: str, revision: str | None = None) -> str:
        asked.append((repository, name, revision))
        if repository == 'someone/old' and name == 'model.safetensors':
            raise EntryNotFoundError('404')
        path = tmp_path / Path(name).name
        (save_file if name.endswith('safetensors') else torch.save)(weights, path)
        return str(path)

    monkeypatch.setattr(hub, 'hf_hub_download', download)
    assert_loaded(reference, weights)
    repository = '/'.join(reference.split(':')[1].split('@')[0].split('/')[:2])
    assert asked[-1] == (repository, file, revision)


def test_wrong_hub_references_and_a_missing_package(monkeypatch) -> None:
    pytest.importorskip('huggingface_hub')
    for reference in ('hf-hub:twins', 'hf-hub:', 'hf-hub:a b/c'):
        with pytest.raises(ValueError, match='give hf-hub:OWNER/NAME'):
            read_checkpoint(reference)
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(ImportError, match='needs huggingface_hub: pip install huggingface_hub'):
        load_from_hub('hf-hub:a/b')
