_base_ = [
    '../_base_/models/retinanet_twins-svt_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/adamw_1x.py',
    '../_base_/default_runtime.py',
]
optim_wrapper = dict(optimizer=dict(lr=1e-4))
model = dict(
    backbone=dict(arch='base', init_cfg=dict(checkpoint='imagenet:svt-base')),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
