"""Batches of a config's own images, at one size."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from small_recipes import DETECTOR, write_segmentor

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')
pytest.importorskip('mmcv._ext')
from mmtwins.benchmark.real_batches import batches_of, build_loader, fix_size, load_with_data


@pytest.mark.parametrize('work', ['training', 'inference'])
@pytest.mark.parametrize('kind', ['segmentor', 'detector'])
def test_images_become_of_one_size_and_come_in_the_same_order(
    toy_data: Path, tmp_path: Path, kind: str, work: str
) -> None:
    config, data = (write_segmentor(tmp_path), 'ade') if kind == 'segmentor' else (DETECTOR, 'coco')
    cfg = load_with_data(str(config), str(toy_data / data))
    cfg.train_dataloader.dataset.pipeline.insert(-1, dict(type='Resize', scale=(9, 9), keep_ratio=True))
    fix_size(cfg, 32, 64)
    first, again = (batches_of(cfg, work, 2, 2) for _ in range(2))
    for batch, same in zip(first, again, strict=True):
        assert {tuple(image.shape) for image in batch['inputs']} == {(3, 32, 64)}
        paths, same_paths = ([s.img_path for s in one['data_samples']] for one in (batch, same))
        assert paths == same_paths and len(set(paths)) == 2
    assert not torch.equal(first[0]['inputs'][0], first[1]['inputs'][0])
    if kind == 'segmentor':
        assert cfg.model.data_preprocessor.size == (32, 64)


def test_a_loader_does_not_end(toy_data: Path) -> None:
    cfg = load_with_data(str(DETECTOR), str(toy_data / 'coco'))
    loader = build_loader(cfg, 'inference', 3, workers=0)
    batches = iter(loader)
    paths = [sample.img_path for _ in range(4) for sample in next(batches)['data_samples']]
    assert len(loader.dataset) == 4
    assert paths[:4] == paths[4:8] == paths[8:]


def test_missing_data_are_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f'there is no data in {tmp_path}/none: give the folder with --data-root'):
        load_with_data(str(DETECTOR), str(tmp_path / 'none'))
    bare = tmp_path / 'bare.py'
    bare.write_text("model = dict(type='EncoderDecoder')\n")
    with pytest.raises(ValueError, match=r'has no train_dataloader and no test_dataloader: give a config with data'):
        load_with_data(str(bare))


def test_wrapped_data_sets_become_of_one_size_too() -> None:
    steps = [dict(type='mmdet.Resize', scale_factor=2.0, keep_ratio=True), dict(type='RandomCrop', crop_size=(9, 9))]
    inner = dict(type='RepeatDataset', dataset=dict(type='ConcatDataset', datasets=[dict(pipeline=steps)]))
    cfg = Config(dict(model={}, train_dataloader=dict(dataset=inner), test_dataloader=dict(dataset=dict(pipeline=[]))))
    fix_size(cfg, 32, 64)
    first, second = cfg.train_dataloader.dataset.dataset.datasets[0].pipeline
    assert first == dict(type='mmdet.Resize', scale=(64, 32), keep_ratio=False)
    assert second == dict(type='RandomCrop', crop_size=(32, 64))
