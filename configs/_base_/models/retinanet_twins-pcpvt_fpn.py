# RetinaNet on Twins-PCPVT-S; B and L have the same channels.
_base_ = 'retinanet_twins-svt_fpn.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='TwinsPCPVTBackbone',
        arch='small',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='imagenet:pcpvt-small'),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
