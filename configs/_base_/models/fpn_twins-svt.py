# Semantic FPN on Twins-SVT-S, as in the public ADE20K code (Meituan-AutoML/Twins, segmentation/configs).
default_scope = 'mmseg'
visualizer = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer')
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),
    ),
    backbone=dict(
        type='TwinsSVTBackbone',
        arch='small',
        window_padding='masked',
        drop_path_rate=0.2,
        init_cfg=dict(type='Pretrained', checkpoint='imagenet:svt-small'),
    ),
    neck=dict(
        type='FPN',
        in_channels=[64, 128, 256, 512],
        out_channels=256,
        num_outs=4,
        # mmseg 0.12 never calls the neck's init_weights, so its convolutions keep what ConvModule draws.
        init_cfg=dict(type='Kaiming', layer='Conv2d', a=0, mode='fan_out', nonlinearity='relu', distribution='normal'),
    ),
    decode_head=dict(
        type='FPNHead',
        in_channels=[256, 256, 256, 256],
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=128,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
