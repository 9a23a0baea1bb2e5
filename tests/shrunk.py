"""Recipes made small enough to train on toy scenes in seconds: what a test of their other settings needs."""

from pathlib import Path

from mmengine.config import Config

from mmtwins.demo.scenes import CLASSES, THING_CLASSES
from mmtwins.engine.config import load_config

ARCH = dict(embed_dims=(8, 16, 16, 16), depths=(2, 2, 1, 1), num_heads=(1, 2, 2, 2), mlp_ratios=(2, 2, 2, 2))
SIDE = 64  # pixels


def load_shrunk(path: Path, data: Path, work_dir: Path, max_iters: int = 2, **options: object) -> Config:
    """Load a recipe with a tiny model, toy data, small images, and a checkpoint and a line in the log per iteration.

    Args:
        path: A UPerNet for ADE20K or a Mask R-CNN for COCO.
        data: Of the fixture ``toy_data``.
        work_dir: Where to write.
        max_iters: Iterations.
        options: Changes to the config by dotted name.
    """
    is_detection = 'coco' in path.stem
    cfg = load_config(str(path), {'data_root': str(data / ('coco' if is_detection else 'ade'))})
    channels = list(ARCH['embed_dims'])
    cfg.model.backbone = dict(type=cfg.model.backbone.type, arch=ARCH, drop_path_rate=0.5)
    if is_detection:
        cfg.model.neck.update(in_channels=channels, out_channels=16)
        cfg.model.rpn_head.update(in_channels=16, feat_channels=16)
        box, mask = cfg.model.roi_head.bbox_head, cfg.model.roi_head.mask_head
        box.update(in_channels=16, fc_out_channels=16, num_classes=len(THING_CLASSES))
        mask.update(in_channels=16, conv_out_channels=16, num_convs=1, num_classes=len(THING_CLASSES))
        for extractor in (cfg.model.roi_head.bbox_roi_extractor, cfg.model.roi_head.mask_roi_extractor):
            extractor.out_channels = 16
    else:
        cfg.model.data_preprocessor.size = (SIDE, SIDE)
        cfg.model.decode_head.update(in_channels=channels, channels=8, num_classes=len(CLASSES))
        cfg.model.auxiliary_head.update(in_channels=16, channels=8, num_classes=len(CLASSES))
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.serialize_data = False
        loader.dataset.metainfo = dict(classes=THING_CLASSES if is_detection else CLASSES)
        if not is_detection:
            loader.dataset.update(
                type='BaseSegDataset', img_suffix='.jpg', seg_map_suffix='.png', reduce_zero_label=True
            )
        for step in loader.dataset.pipeline:
            if step.type in ('Resize', 'RandomResize'):
                step.scale = (2 * SIDE, SIDE)
            if step.type == 'CheckLabels':
                step.num_classes = len(CLASSES)
            if step.type == 'RandomCrop':
                step.crop_size = (SIDE, SIDE)
    cfg.train_dataloader.sampler.type = 'InfiniteSampler'
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=100)
    cfg.param_scheduler = None
    cfg.optim_wrapper.optimizer.update(
        lr=1e-3, eps=1e-3
    )  # by Adam's own eps, gradients that are 0 but for rounding count
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=1)
    cfg.default_hooks.logger.interval = 1
    cfg.log_processor = dict(by_epoch=False)
    cfg.update(work_dir=str(work_dir), launcher='none', randomness=dict(seed=0), load_from=None)
    cfg.merge_from_dict(options)
    return cfg
