# UPerNet on Twins-PCPVT-S; B and L have the same channels. The public configs of B and L ask for a drop path of 0.3, but
# their classes ignore it and run 0.2.
_base_ = 'upernet_twins-svt.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='TwinsPCPVTBackbone',
        arch='small',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='imagenet:pcpvt-small'),
    ),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
