"""Trainings from random weights instead of those that a config names."""

import pytest
from mmengine.config import Config
from mmengine.model import PretrainedInit

from mmtwins.engine.start import drop_imagenet, start_from_scratch

CONSTANT = dict(type='Constant', val=0, layer='Linear')


@pytest.mark.parametrize('kind', ['Pretrained', PretrainedInit])
def test_no_init_cfg_names_a_checkpoint_any_more(kind: str | type) -> None:
    pretrained = dict(type=kind, checkpoint='imagenet:svt-small')
    cfg = Config(
        dict(
            model=dict(
                init_cfg=[CONSTANT, pretrained],
                backbone=dict(arch='small', init_cfg=pretrained),
                neck=dict(init_cfg=CONSTANT),
                roi_head=dict(heads=[dict(init_cfg=[pretrained]), dict(init_cfg=None)]),
            )
        )
    )
    start_from_scratch(cfg)
    assert cfg.model.to_dict() == dict(
        init_cfg=[CONSTANT],
        backbone=dict(arch='small', init_cfg=None),
        neck=dict(init_cfg=CONSTANT),
        roi_head=dict(heads=[dict(init_cfg=None), dict(init_cfg=None)]),
    )


def test_a_checkpoint_in_load_from_contradicts_it_and_one_to_resume_does_not() -> None:
    cfg = Config(dict(model=dict(), load_from='a.pth', resume=False))
    with pytest.raises(ValueError, match=r'--from-scratch contradicts load_from=a\.pth: leave one of them out'):
        start_from_scratch(cfg)
    for others in (dict(load_from='a.pth', resume=True), dict(load_from=None, resume=True), dict()):
        start_from_scratch(Config(dict(model=dict(), **others)))


def test_imagenet_weights_that_a_checkpoint_replaces_are_dropped_and_others_stay() -> None:
    others = dict(type='Pretrained', checkpoint='a.pth')
    imagenet = dict(type='Pretrained', checkpoint='imagenet:svt-small')
    cfg = Config(dict(model=dict(backbone=dict(init_cfg=imagenet), neck=dict(init_cfg=[CONSTANT, imagenet, others]))))
    drop_imagenet(cfg)
    assert cfg.model.to_dict() == dict(backbone=dict(init_cfg=None), neck=dict(init_cfg=[CONSTANT, others]))
