# COCO 2017 with boxes and masks, short side 800, long side at most 1333.
_base_ = 'coco_detection.py'
load_annotations = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
train_pipeline = [load_annotations if step['type'] == 'LoadAnnotations' else step for step in _base_.train_pipeline]
test_pipeline = [load_annotations if step['type'] == 'LoadAnnotations' else step for step in _base_.test_pipeline]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = dict(metric=['bbox', 'segm'])
