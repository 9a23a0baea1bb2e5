_base_ = [
    '../_base_/models/mask-rcnn_twins-svt_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_1x.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(arch='large', init_cfg=dict(checkpoint='imagenet:svt-large')),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
