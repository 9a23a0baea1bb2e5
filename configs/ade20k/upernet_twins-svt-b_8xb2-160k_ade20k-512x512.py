_base_ = [
    '../_base_/models/upernet_twins-svt.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/adamw_160k.py',
    '../_base_/default_runtime.py',
]
embed_dims = [96, 192, 384, 768]
model = dict(
    backbone=dict(arch='base', init_cfg=dict(checkpoint='imagenet:svt-base')),
    decode_head=dict(in_channels=embed_dims),
    auxiliary_head=dict(in_channels=embed_dims[2]),
)
