# COCO 2017 with boxes and masks, several scales and crops in training.
_base_ = ['coco_detection.py', 'ms_crop.py']
load_annotations = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
train_pipeline = [
    _base_.load_image,
    dict(type='CheckImage'),
    load_annotations,
    dict(type='RandomFlip', prob=0.5),
    _base_.ms_crop,
    dict(type='PackDetInputs'),
]
test_pipeline = [load_annotations if step['type'] == 'LoadAnnotations' else step for step in _base_.test_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = dict(metric=['bbox', 'segm'])
