# Mask R-CNN on a small Twins-SVT, from scratch on generated scenes: a few minutes on two CPU cores.
# Generate the data first: python -m mmtwins.demo.data data/toy
_base_ = [
    '../_base_/models/mask-rcnn_twins-svt_fpn.py',
    '../_base_/schedules/toy_adamw.py',
    '../_base_/default_runtime.py',
]

data_root = 'data/toy/coco'
max_iters = 600
batch_size = 8
learning_rate = 1e-3

# The same as in mmtwins.demo.data.
classes = ('ball', 'kite', 'starfish', 'crate', 'buoy', 'windmill')
palette = [(204, 102, 119), (51, 34, 136), (170, 68, 153), (153, 153, 51), (136, 34, 85), (68, 170, 153)]

embed_dims = [32, 64, 128, 192]
channels = 64
strides = [4, 8, 16, 32]
norm_cfg = dict(type='BN', requires_grad=True)  # helps training from scratch
model = dict(
    backbone=dict(
        _delete_=True,  # the base config has a published architecture and its weights
        type='TwinsSVTBackbone',
        arch=dict(
            embed_dims=embed_dims,
            depths=(2, 2, 2, 2),
            num_heads=(1, 2, 4, 6),
            mlp_ratios=(4, 4, 4, 4),
        ),
        # The feature maps of a 128 x 128 image are 32, 16, 8 and 4 tokens wide, so no window needs padding.
        window_sizes=(8, 8, 8, 4),
        window_padding='masked',
        drop_path_rate=0.0,
    ),
    neck=dict(in_channels=embed_dims, out_channels=channels, num_outs=4, norm_cfg=norm_cfg),
    # Things are 25 to 70 pixels wide, so anchors are 16, 32, 64 and 128 pixels, and RoIs below 56 pixels use stride 4.
    rpn_head=dict(in_channels=channels, feat_channels=channels, anchor_generator=dict(scales=[4], strides=strides)),
    roi_head=dict(
        bbox_roi_extractor=dict(
            roi_layer=dict(output_size=7, sampling_ratio=1), out_channels=channels, finest_scale=28
        ),
        bbox_head=dict(
            type='ConvFCBBoxHead',
            num_shared_convs=1,
            num_shared_fcs=1,
            in_channels=channels,
            conv_out_channels=channels,
            fc_out_channels=256,
            num_classes=len(classes),
            reg_class_agnostic=True,
            norm_cfg=norm_cfg,
        ),
        mask_roi_extractor=dict(
            roi_layer=dict(output_size=14, sampling_ratio=1), out_channels=channels, finest_scale=28
        ),
        mask_head=dict(
            num_convs=2,
            in_channels=channels,
            conv_out_channels=channels,
            num_classes=len(classes),
            class_agnostic=True,
            norm_cfg=norm_cfg,
        ),
    ),
    train_cfg=dict(
        rpn=dict(assigner=dict(pos_iou_thr=0.6), sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=50), rcnn=dict(max_per_img=20)),
)

load_image = dict(type='LoadImageFromFile', backend_args=dict(backend='checked'))  # names damaged files
train_pipeline = [
    load_image,
    dict(type='CheckImage'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=[0.33, 0.33], direction=['horizontal', 'vertical']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    load_image,
    dict(type='CheckImage'),
    dict(type='Resize', scale=(128, 128), keep_ratio=True),  # only for the scale_factor that the heads need
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
dataset = dict(type='CocoDataset', data_root=data_root, metainfo=dict(classes=classes, palette=palette))
# No workers: loading such small images is faster than passing them between processes.
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017'),
        pipeline=train_pipeline,
        **dataset,
    ),
)
val_dataloader = dict(
    batch_size=batch_size,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017'),
        test_mode=True,
        pipeline=test_pipeline,
        **dataset,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='CocoMetric', ann_file=f'{data_root}/annotations/instances_val2017.json', metric=['bbox', 'segm']
)
test_evaluator = val_evaluator

train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 4)
optim_wrapper = dict(optimizer=dict(lr=learning_rate))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, begin=0, end=50, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0.0, T_max=max_iters - 50, begin=50, end=max_iters, by_epoch=False),
]
default_hooks = dict(visualization=dict(type='DetVisualizationHook'))
