"""Data, checkpoints and devices that are missing or do not fit are refused before anything is written."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from server import Server

from mmtwins import TwinsSVTBackbone
from mmtwins.engine.checks import check_checkpoints, check_data, check_device

TINY = dict(embed_dims=(8, 16), depths=(1, 1), num_heads=(1, 2), mlp_ratios=(2, 2))
BACKBONE = dict(type='TwinsSVTBackbone', arch=TINY, window_sizes=(7, 7), sr_ratios=(2, 1), out_indices=(0, 1))


def test_a_device_that_is_not_there_is_refused() -> None:
    assert check_device('cpu') == 'cpu'
    assert check_device(None) == get_device()
    for device in ('tpu7', 'cuda:99'):
        with pytest.raises(ValueError, match=f'device {device!r} cannot be used here .*: take cpu'):
            check_device(device)


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


def test_remote_checkpoints_are_fetched_and_checked_once_a_machine(tmp_path: Path, hub: Server, monkeypatch) -> None:
    url = f'{hub.url}/no/such/file.pth'
    with pytest.raises(OSError, match=f'checkpoint {url} cannot be fetched: HTTP Error 404'):
        check_checkpoints(make_checkpoint_config(tmp_path, load_from=url))
    monkeypatch.setenv('LOCAL_RANK', '1')
    check_checkpoints(make_checkpoint_config(tmp_path, load_from=url))
    check_checkpoints(make_checkpoint_config(tmp_path, dict(type='Pretrained', checkpoint='imagenet:svt-small')))
    assert hub.fetched == ['/no/such/file.pth']


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
        ('', FileNotFoundError, 'is a folder: give the path'),
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
