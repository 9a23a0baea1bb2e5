_base_ = [
    '../_base_/models/mask-rcnn_twins-svt_fpn.py',
    '../_base_/datasets/coco_instance_ms-crop.py',
    '../_base_/schedules/adamw_3x.py',
    '../_base_/default_runtime.py',
]
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale=512.0)
model = dict(
    backbone=dict(arch='large', init_cfg=dict(checkpoint='imagenet:svt-large')),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
