_base_ = [
    '../_base_/models/upernet_twins-pcpvt.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/adamw_160k.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(arch='base', init_cfg=dict(checkpoint='imagenet:pcpvt-base')))
