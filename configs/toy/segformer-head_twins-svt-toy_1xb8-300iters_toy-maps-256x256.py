# A small Twins-SVT on generated maps, from scratch, as tools/study_gsa.py trains it with different windows and sub-samplings.
# Generate the data first: python -m mmtwins.study.map_files data/toy-maps
_base_ = [
    '../_base_/models/fpn_twins-svt.py',
    '../_base_/schedules/toy_adamw.py',
    '../_base_/default_runtime.py',
]

data_root = 'data/toy-maps'
max_iters = 300
batch_size = 8
learning_rate = 2e-3

# The same as in mmtwins.study.maps.
classes = ('ground', 'dark', 'middle', 'light')
palette = [(200, 200, 200), (51, 34, 136), (68, 170, 153), (221, 204, 119)]

embed_dims = [32, 64, 96, 128]
model = dict(
    data_preprocessor=dict(size=(256, 256)),
    backbone=dict(
        _delete_=True,  # the base config has a published architecture and its weights
        type='TwinsSVTBackbone',
        arch=dict(embed_dims=embed_dims, depths=(2, 2, 2, 2), num_heads=(1, 2, 3, 4), mlp_ratios=(2, 2, 2, 2)),
        window_sizes=(7, 7, 7, 7),
        sr_ratios=(8, 4, 2, 1),
        drop_path_rate=0.0,
    ),
    neck=None,
    # Nothing but 1 x 1 convolutions: what a pixel's class depends on is decided by the backbone.
    decode_head=dict(
        _delete_=True,
        type='SegformerHead',
        in_channels=embed_dims,
        in_index=[0, 1, 2, 3],
        channels=64,
        dropout_ratio=0.0,
        num_classes=len(classes),
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
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
    dict(type='RandomFlip', prob=0.5, direction='vertical'),  # the legend stays at the right border
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
    reduce_zero_label=False,
    img_suffix='.png',
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
