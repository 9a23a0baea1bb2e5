# COCO 2017 with boxes, several scales and crops in training.
_base_ = ['coco_detection.py', 'ms_crop.py']
train_pipeline = [
    _base_.load_image,
    dict(type='CheckImage'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    _base_.ms_crop,
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
