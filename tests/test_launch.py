"""What the tools refuse before anything is written, ``--cfg-options data_root``, and the batch size they warn of."""

import importlib.util
import logging
import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import MODELS

from mmtwins import TwinsSVTBackbone
from mmtwins.launch import check_checkpoints, check_data, load_config, warn_of_batch_size

CONFIGS = Path(__file__).parents[1] / 'configs'
TINY = dict(embed_dims=(8, 16), depths=(1, 1), num_heads=(1, 2), mlp_ratios=(2, 2))
BACKBONE = dict(type='TwinsSVTBackbone', arch=TINY, window_sizes=(7, 7), sr_ratios=(2, 1), out_indices=(0, 1))


def write_config(folder: Path, text: str) -> str:
    path = folder / 'config.py'
    path.write_text(text)
    return str(path)


def test_data_root_replaces_the_root_everywhere_and_nothing_else(tmp_path: Path) -> None:
    path = write_config(
        tmp_path,
        "data_root = 'data/coco/'\n"
        "a = dict(data_root=data_root, other='data/coco_extra', more=[dict(ann=data_root + 'annotations/x.json')])\n"
        "pair = ('data/coco', 'x/data/coco')\n",
    )
    cfg = load_config(path, {'data_root': str(tmp_path / 'elsewhere'), 'a.new': 3})
    root = str(tmp_path / 'elsewhere')
    assert cfg.data_root == cfg.a.data_root == root
    assert cfg.a.more[0].ann == f'{root}/annotations/x.json'
    assert cfg.a.other == 'data/coco_extra'
    assert cfg.a.new == 3
    assert tuple(cfg.pair) == (root, 'x/data/coco')
    assert cfg.filename == path


@pytest.mark.parametrize('old', ["''", 'None', "'/'"])
def test_data_root_of_a_config_without_one_replaces_nothing(old: str, tmp_path: Path) -> None:
    path = write_config(tmp_path, f"data_root = {old}\na = dict(empty='', absolute='/abs/path')\n")
    cfg = load_config(path, {'data_root': 2017})
    assert cfg.data_root == '2017'
    assert cfg.a == dict(empty='', absolute='/abs/path')


@pytest.mark.parametrize(
    ('given', 'expected'), [('x/', 'x'), ('~/x', f'{Path.home()}/x'), ('s3://bucket/x', 's3://bucket/x')]
)
def test_data_root_is_taken_as_a_shell_would(given: str, expected: str, tmp_path: Path) -> None:
    path = write_config(tmp_path, "data_root = 'data/a'\nb = f'{data_root}/b'\n")
    assert load_config(path, {'data_root': given}).b == f'{expected}/b'


def test_data_root_of_a_lazy_config_keeps_it_lazy(tmp_path: Path) -> None:
    path = write_config(
        tmp_path,
        'from mmtwins import TwinsSVTBackbone\n'
        "data_root = 'data/a'\n"
        "model = dict(type=TwinsSVTBackbone, pair=(data_root, 1), more=[dict(ann=data_root + '/x.json')])\n",
    )
    cfg = load_config(path, {'data_root': '/n'})
    cfg.dump(tmp_path / 'dumped.py')  # as the Runner does
    dumped = Config.fromfile(tmp_path / 'dumped.py')
    assert dumped.model.type in (TwinsSVTBackbone, 'mmtwins.TwinsSVTBackbone', 'mmtwins.backbone.TwinsSVTBackbone')
    assert tuple(dumped.model.pair) == ('/n', 1)
    assert dumped.model.more[0].ann == '/n/x.json'


def test_imagenet_weights_are_named_by_two_options() -> None:
    for path in [*(CONFIGS / 'ade20k').glob('*-s_*.py'), *(CONFIGS / 'coco').glob('*-s_*.py')]:
        cfg = load_config(
            str(path),
            {'model.backbone.init_cfg.type': 'Pretrained', 'model.backbone.init_cfg.checkpoint': 'a.pth'},
        )
        assert cfg.model.backbone.init_cfg == dict(type='Pretrained', checkpoint='a.pth')


@pytest.mark.parametrize(
    ('text', 'options', 'message'),
    [
        ('a = 1', {'a.b.c': 2}, 'TypeError'),
        ('a = [1]', {'a.7.c': 2}, 'KeyError'),
        ('a = (', {}, 'SyntaxError'),
    ],
)
def test_what_is_no_config_or_no_option_of_it_is_refused(
    text: str, options: dict, message: str, tmp_path: Path
) -> None:
    path = write_config(tmp_path, text)
    with pytest.raises(ValueError, match=rf'config\.py with the options .*{message}'):
        load_config(path, options)


def test_config_that_imports_what_is_missing_says_what_to_install(tmp_path: Path) -> None:
    path = write_config(tmp_path, "custom_imports = dict(imports=['not_there'])")
    with pytest.raises(ImportError, match=r'(?s)config\.py: .*not_there.*make setup'):
        load_config(path)


def test_missing_config_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r'config nowhere/a\.py does not exist'):
        load_config('nowhere/a.py')


@pytest.mark.parametrize(('scope', 'extra'), [('mmseg', 'seg'), ('mmdet', 'det')])
def test_missing_library_says_what_to_install(tmp_path: Path, monkeypatch, scope: str, extra: str) -> None:
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    path = write_config(tmp_path, f'default_scope = {scope!r}')
    with pytest.raises(ImportError, match=rf'needs {scope} and mmcv.*make setup.*pip install .*mmtwins\[{extra}\]'):
        load_config(path)


def make_data_config(root: Path) -> Config:
    inner = dict(data_root=str(root), ann_file='ann.json', data_prefix=dict(img='images'))
    return Config(dict(train_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=inner)), val_dataloader=None))


def test_missing_and_empty_data_folders_are_named(tmp_path: Path) -> None:
    cfg = make_data_config(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r'train data set needs .*images, which does not exist.*data_root=FOLDER'
    ):
        check_data(cfg, 'train', 'val')
    (tmp_path / 'images').mkdir()
    with pytest.raises(FileNotFoundError, match=r'images, which is empty'):
        check_data(cfg, 'train')
    (tmp_path / 'images' / 'a.jpg').touch()
    with pytest.raises(FileNotFoundError, match=r'ann\.json, which does not exist'):
        check_data(cfg, 'train')
    (tmp_path / 'ann.json').touch()
    check_data(cfg, 'train', 'val', 'test')
    check_data(Config(dict(test_dataloader=dict(dataset=dict(data_root='s3://bucket', ann_file='a')))), 'test')


class Whole(BaseModule):
    """A whole model in miniature."""

    def __init__(self, backbone: dict, num_classes: int = 5, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.backbone = MODELS.build(backbone)
        self.head = torch.nn.Linear(2, num_classes)


def make_checkpoint_config(tmp_path: Path, init_cfg: dict | None = None, **kwargs) -> Config:
    backbone = dict(BACKBONE, init_cfg=init_cfg)
    return Config(dict(model=dict(type=Whole, backbone=backbone), work_dir=str(tmp_path / 'work'), **kwargs))


def test_fitting_checkpoints_pass(tmp_path: Path) -> None:
    weights = TwinsSVTBackbone(**{k: v for k, v in BACKBONE.items() if k != 'type'}).state_dict()
    torch.save(weights, tmp_path / 'bare.pth')
    torch.save({'state_dict': {f'backbone.{k}': v for k, v in weights.items()}}, tmp_path / 'whole.pth')
    torch.save({'state_dict': {f'module.backbone.{k}': v for k, v in weights.items()}}, tmp_path / 'ddp.pth')
    bare = dict(type='Pretrained', checkpoint=str(tmp_path / 'bare.pth'))
    from_whole = dict(type='Pretrained', checkpoint=str(tmp_path / 'whole.pth'), prefix='backbone')
    for init_cfg in (None, bare, from_whole, [bare]):
        check_checkpoints(make_checkpoint_config(tmp_path, init_cfg, load_from=str(tmp_path / 'whole.pth')))
    check_checkpoints(make_checkpoint_config(tmp_path, load_from=str(tmp_path / 'ddp.pth')))
    check_checkpoints(make_checkpoint_config(tmp_path, load_from=None, resume=True))  # nothing to resume from yet
    for path in ('https://example.org/a.pth', 'hf-hub:a/b'):
        check_checkpoints(make_checkpoint_config(tmp_path, load_from=path))


def test_heads_for_other_classes_pass_for_training_only(tmp_path: Path) -> None:
    cfg = make_checkpoint_config(tmp_path)
    weights = MODELS.build(dict(cfg.model, num_classes=9)).state_dict()
    torch.save(weights, tmp_path / 'nine.pth')
    cfg = make_checkpoint_config(tmp_path, load_from=str(tmp_path / 'nine.pth'))
    check_checkpoints(cfg)
    with pytest.raises(
        ValueError, match=r'nine\.pth: head: 9 outputs in the checkpoint, 5 in the model \(another number'
    ):
        check_checkpoints(cfg, for_training=False)
    bare = {name.removeprefix('backbone.'): value for name, value in weights.items() if name.startswith('backbone.')}
    torch.save(bare, tmp_path / 'bare.pth')
    check_checkpoints(make_checkpoint_config(tmp_path, load_from=str(tmp_path / 'bare.pth')), for_training=False)


def test_bad_checkpoints_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({'state_dict': {'conv1.weight': torch.zeros(1)}}, tmp_path / 'foreign.pth')
    (tmp_path / 'text.pth').write_text('hello')
    torch.save({0: torch.zeros(1)}, tmp_path / 'numbers.pth')
    torch.save({'state_dict': [1, 2]}, tmp_path / 'list.pth')
    torch.save({'model': {'a': torch.zeros(1)}}, tmp_path / 'nested.pth')
    torch.save({'weight': torch.zeros(100000)}, tmp_path / 'good.pth')
    (tmp_path / 'half.pth').write_bytes((tmp_path / 'good.pth').read_bytes()[:200000])
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work' / 'last_checkpoint').write_text(str(tmp_path / 'foreign.pth'))
    for name, error, message in [
        ('absent.pth', FileNotFoundError, 'does not exist'),
        ('foreign.pth', ValueError, 'no weight in the checkpoint fits'),
        ('text.pth', ValueError, 'is refused|cannot be read'),
        ('half.pth', ValueError, 'cannot be read'),
        ('numbers.pth', ValueError, 'holds no dict of weights by name'),
        ('list.pth', ValueError, 'holds no dict of weights by name'),
        ('nested.pth', ValueError, 'no weight in the checkpoint fits.*has a \\(1,\\)'),
    ]:
        path = str(tmp_path / name)
        with pytest.raises(error, match=f'checkpoint {path}.*({message})'):
            check_checkpoints(make_checkpoint_config(tmp_path, load_from=path))
        with pytest.raises(error, match=f'checkpoint {path}.*({message})'):
            check_checkpoints(make_checkpoint_config(tmp_path, dict(type='Pretrained', checkpoint=path)))
    with pytest.raises(ValueError, match=r'foreign\.pth: no weight'):
        check_checkpoints(make_checkpoint_config(tmp_path, load_from=None, resume=True))


FPN = CONFIGS / 'ade20k' / 'fpn_twins-svt-s_4xb4-80k_ade20k-512x512.py'  # 4 images a GPU, 16 in all


class StandInRunner:
    """Has what the warning reads; notes when training starts."""

    def __init__(self, cfg: Config, world_size: int = 1) -> None:
        self.cfg = cfg
        self.world_size = world_size
        self.logger = logging.getLogger('stand-in')

    def train(self) -> None:
        self.logger.warning('training starts')


def warnings_of(caplog: pytest.LogCaptureFixture, world_size: int, **options) -> list[str]:
    caplog.clear()
    warn_of_batch_size(StandInRunner(load_config(str(FPN), options), world_size))
    return [record.message for record in caplog.records]


def test_another_batch_than_the_recipes_is_warned_of_with_the_remedy(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip('mmseg')
    (message,) = warnings_of(caplog, 1)
    assert message == (
        '1 GPU(s) x 4 image(s) = 4 an iteration, but the learning rate 0.0001 is for 16 (auto_scale_lr.base_batch_size). '
        '--auto-scale-lr would make it 2.5e-05'
    )
    (message,) = warnings_of(caplog, 8)
    assert '8 GPU(s) x 4 image(s) = 32 an iteration' in message
    assert 'would make it 0.0002' in message
    assert warnings_of(caplog, 4) == []
    assert warnings_of(caplog, 8, **{'train_dataloader.batch_size': 2}) == []
    assert warnings_of(caplog, 1, **{'auto_scale_lr.enable': True}) == []
    assert warnings_of(caplog, 1, **{'auto_scale_lr': None}) == []


@pytest.mark.parametrize(('options', 'count'), [([], 1), (['--auto-scale-lr'], 0)])
def test_training_warns_once_before_it_starts(
    options: list[str], count: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip('mmseg')
    monkeypatch.setattr('sys.argv', ['train.py', str(FPN), *options])
    monkeypatch.setattr('mmtwins.launch.check_data', lambda *_: None)
    monkeypatch.setattr('mmtwins.launch.build_runner', StandInRunner)
    runpy.run_path(str(CONFIGS.parent / 'tools' / 'train.py'), run_name='__main__')
    messages = [record.message for record in caplog.records if record.name == 'stand-in']
    assert messages[-1] == 'training starts'
    assert len(messages) == count + 1


def test_mixed_precision_recipe_says_that_it_needs_a_gpu(run_tool: Callable[..., subprocess.CompletedProcess]) -> None:
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    pytest.importorskip('mmdet')
    path = CONFIGS / 'coco' / 'mask-rcnn_twins-svt-s_fpn_8xb2-amp-ms-crop-3x_coco.py'
    result = run_tool('train.py', path)
    assert result.returncode == 1
    assert f'error: {path} needs a GPU: MMEngine trains in mixed precision only there' in result.stderr
