_base_ = [
    '../_base_/models/fpn_twins-pcpvt.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/adamw_80k.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(batch_size=4)
model = dict(backbone=dict(arch='base', init_cfg=dict(checkpoint='imagenet:pcpvt-base')))
