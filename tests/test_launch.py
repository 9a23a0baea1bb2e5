"""What the tools refuse before anything is written, and ``--cfg-options data_root``."""

import importlib.util
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmtwins import TwinsSVTBackbone
from mmtwins.launch import check_checkpoints, check_data, load_config

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


def make_checkpoint_config(tmp_path: Path, init_cfg: dict | None = None, **kwargs) -> Config:
    backbone = dict(BACKBONE, init_cfg=init_cfg)
    return Config(dict(model=dict(type='Any', backbone=backbone), work_dir=str(tmp_path / 'work'), **kwargs))


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
    check_checkpoints(make_checkpoint_config(tmp_path, load_from='https://example.org/a.pth'))


def test_bad_checkpoints_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({'state_dict': {'conv1.weight': torch.zeros(1)}}, tmp_path / 'foreign.pth')
    (tmp_path / 'text.pth').write_text('hello')
    torch.save({'weight': torch.zeros(100000)}, tmp_path / 'good.pth')
    (tmp_path / 'half.pth').write_bytes((tmp_path / 'good.pth').read_bytes()[:200000])
    (tmp_path / 'work').mkdir()
    (tmp_path / 'work' / 'last_checkpoint').write_text(str(tmp_path / 'foreign.pth'))
    for name, error, message in [
        ('absent.pth', FileNotFoundError, 'does not exist'),
        ('foreign.pth', ValueError, 'no weight in the checkpoint fits'),
        ('text.pth', ValueError, 'is refused|cannot be read'),
        ('half.pth', ValueError, 'cannot be read'),
    ]:
        path = str(tmp_path / name)
        with pytest.raises(error, match=f'checkpoint {path}.*({message})'):
            check_checkpoints(make_checkpoint_config(tmp_path, load_from=path))
        with pytest.raises(error, match=f'checkpoint {path}.*({message})'):
            check_checkpoints(make_checkpoint_config(tmp_path, dict(type='Pretrained', checkpoint=path)))
    with pytest.raises(ValueError, match=r'foreign\.pth: no weight'):
        check_checkpoints(make_checkpoint_config(tmp_path, load_from=None, resume=True))
