"""What the tools refuse before anything is written, checkpoints among them, and ``--cfg-options data_root``."""

import importlib.util
import subprocess
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import MODELS

from mmtwins import TwinsSVTBackbone
from mmtwins.engine.launch import check_checkpoints, check_data, load_config

CONFIGS = Path(__file__).parents[2] / 'configs'
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
    assert dumped.model.type in (
        TwinsSVTBackbone,
        'mmtwins.TwinsSVTBackbone',
        'mmtwins.models.backbone.TwinsSVTBackbone',
    )
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
        self.neck = torch.nn.Linear(2, 2)
        self.fc_cls = torch.nn.Linear(2, num_classes)


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
    check_checkpoints(make_checkpoint_config(tmp_path, load_from='s3://bucket/a.pth'))


def test_remote_checkpoints_are_fetched_and_checked_once_a_machine(tmp_path: Path, monkeypatch) -> None:
    with ThreadingHTTPServer(('127.0.0.1', 0), SimpleHTTPRequestHandler) as server:
        url = f'http://127.0.0.1:{server.server_port}/no/such/file.pth'
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(OSError, match=f'checkpoint {url} cannot be fetched: HTTP Error 404'):
            check_checkpoints(make_checkpoint_config(tmp_path, load_from=url))
        server.shutdown()
    monkeypatch.setenv('LOCAL_RANK', '1')
    check_checkpoints(make_checkpoint_config(tmp_path, load_from=url))


def test_weights_without_a_training_are_not_resumed(tmp_path: Path) -> None:
    cfg = make_checkpoint_config(tmp_path, load_from=str(tmp_path / 'a.pth'), resume=True)
    weights = MODELS.build(dict(cfg.model)).state_dict()
    torch.save({'state_dict': weights}, tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'a\.pth: it holds weights only.*name it in load_from'):
        check_checkpoints(cfg)
    torch.save({'state_dict': weights, 'meta': {'iter': 3}}, tmp_path / 'a.pth')
    torch.save(weights, tmp_path / 'initial.pth')
    cfg.model.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'initial.pth'))  # need not be resumable
    check_checkpoints(cfg)


def test_evaluation_refuses_a_model_whose_heads_are_partly_missing(tmp_path: Path) -> None:
    cfg = make_checkpoint_config(tmp_path, load_from=str(tmp_path / 'a.pth'))
    weights = MODELS.build(dict(cfg.model)).state_dict()
    torch.save({name: value for name, value in weights.items() if not name.startswith('neck.')}, tmp_path / 'a.pth')
    check_checkpoints(cfg)
    with pytest.raises(ValueError, match=r'a\.pth: neck: not in the checkpoint: give the config'):
        check_checkpoints(cfg, for_training=False)


def test_checkpoint_of_the_whole_model_in_its_init_cfg_is_checked(tmp_path: Path) -> None:
    torch.save({'conv1.weight': torch.zeros(1)}, tmp_path / 'foreign.pth')
    cfg = make_checkpoint_config(tmp_path)
    cfg.model.init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'foreign.pth'))
    with pytest.raises(ValueError, match=r'foreign\.pth: no weight in the checkpoint fits'):
        check_checkpoints(cfg)


def test_models_without_twins_are_left_to_mmengine(tmp_path: Path) -> None:
    torch.save({'conv1.weight': torch.zeros(1)}, tmp_path / 'resnet.pth')
    cfg = make_checkpoint_config(tmp_path, load_from=str(tmp_path / 'resnet.pth'))
    cfg.model.backbone = dict(type=torch.nn.Linear, in_features=2, out_features=2)
    check_checkpoints(cfg)


def test_heads_for_other_classes_pass_for_training_only(tmp_path: Path) -> None:
    cfg = make_checkpoint_config(tmp_path)
    weights = MODELS.build(dict(cfg.model, num_classes=9)).state_dict()
    torch.save(weights, tmp_path / 'nine.pth')
    cfg = make_checkpoint_config(tmp_path, load_from=str(tmp_path / 'nine.pth'))
    check_checkpoints(cfg)
    with pytest.raises(
        ValueError, match=r'nine\.pth: fc_cls: 9 outputs in the checkpoint, 5 in the model \(another number'
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


def test_mixed_precision_recipe_says_that_it_needs_a_gpu(run_tool: Callable[..., subprocess.CompletedProcess]) -> None:
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    pytest.importorskip('mmdet')
    path = CONFIGS / 'coco' / 'mask-rcnn_twins-svt-s_fpn_8xb2-amp-ms-crop-3x_coco.py'
    result = run_tool('train.py', path)
    assert result.returncode == 1
    assert f'error: {path} needs a GPU: MMEngine trains in mixed precision only there' in result.stderr
