# UPerNet on a small Twins-SVT, from scratch on generated scenes: a few minutes on two CPU cores.
# Generate the data first: python -m mmtwins.demo.data data/toy
_base_ = [
    '../_base_/models/upernet_twins-svt.py',
    '../_base_/schedules/toy_adamw.py',
    '../_base_/default_runtime.py',
]

data_root = 'data/toy/ade'
max_iters = 1600
batch_size = 8
learning_rate = 2e-3

# The same as in mmtwins.demo.data. Label 0, other, is not a class.
classes = ('grass', 'sand', 'water', 'ball', 'kite', 'starfish', 'crate', 'buoy', 'windmill')
palette = [
    (17, 119, 51), (221, 204, 119), (136, 204, 238),
    (204, 102, 119), (51, 34, 136), (170, 68, 153), (153, 153, 51), (136, 34, 85), (68, 170, 153),
]  # fmt: skip

embed_dims = [32, 64, 128, 192]
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    data_preprocessor=dict(size=(128, 128)),
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
        drop_path_rate=0.0,
    ),
    decode_head=dict(
        in_channels=embed_dims,
        pool_scales=(1, 2),
        channels=48,
        dropout_ratio=0.0,
        num_classes=len(classes),
        norm_cfg=norm_cfg,
    ),
    auxiliary_head=dict(
        in_channels=embed_dims[2], channels=32, dropout_ratio=0.0, num_classes=len(classes), norm_cfg=norm_cfg
    ),
)

# Damaged files are named, see docs/finetuning.md.
load_image = dict(type='LoadImageFromFile', backend_args=dict(backend='checked'))
load_labels = dict(type='LoadAnnotations', backend_args=dict(backend='checked', decoder='pillow'))
train_pipeline = [
    load_image,
    dict(type='CheckImage'),
    load_labels,
    dict(type='CheckLabels', num_classes=len(classes)),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    load_image,
    dict(type='CheckImage'),
    load_labels,
    dict(type='CheckLabels', num_classes=len(classes)),
    dict(type='PackSegInputs'),
]
dataset = dict(
    type='BaseSegDataset',
    data_root=data_root,
    metainfo=dict(classes=classes, palette=palette),
    reduce_zero_label=True,
    img_suffix='.jpg',
    seg_map_suffix='.png',
)
# No workers: loading such small images is faster than passing them between processes.
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
        **dataset,
    ),
)
val_dataloader = dict(
    batch_size=batch_size,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline,
        **dataset,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 4)
optim_wrapper = dict(optimizer=dict(lr=learning_rate))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, begin=0, end=50, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=0.0, T_max=max_iters - 50, begin=50, end=max_iters, by_epoch=False),
]
default_hooks = dict(visualization=dict(type='SegVisualizationHook'))
