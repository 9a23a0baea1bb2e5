# ADE20K scene parsing, 150 classes (ADEChallengeData2016).
dataset_type = 'ADE20KDataset'
data_root = 'data/ade/ADEChallengeData2016'
num_classes = 150
crop_size = (512, 512)
# Damaged files are named, see docs/finetuning.md.
load_image = dict(type='LoadImageFromFile', backend_args=dict(backend='checked'))
load_labels = dict(type='LoadAnnotations', backend_args=dict(backend='checked', decoder='pillow'))
train_pipeline = [
    load_image,
    dict(type='CheckImage'),
    load_labels,
    dict(type='CheckLabels', num_classes=num_classes),
    dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    load_image,
    dict(type='CheckImage'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    # After Resize: the metric compares at the original size, so the annotation must not be resized.
    load_labels,
    dict(type='CheckLabels', num_classes=num_classes),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

# --tta: six scales and flip, for the published mIoU(ms+flip).
tta_model = dict(type='SegTTAModel')
tta_pipeline = [
    load_image,
    dict(type='CheckImage'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(int(2048 * ratio), int(512 * ratio)), keep_ratio=True)
                for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
            ],
            [
                dict(type='RandomFlip', prob=0.0, direction='horizontal'),
                dict(type='RandomFlip', prob=1.0, direction='horizontal'),
            ],
            [load_labels],
            [dict(type='CheckLabels', num_classes=num_classes)],
            [dict(type='PackSegInputs')],
        ],
    ),
]
