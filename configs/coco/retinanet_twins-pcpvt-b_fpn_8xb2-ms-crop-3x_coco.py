_base_ = [
    '../_base_/models/retinanet_twins-pcpvt_fpn.py',
    '../_base_/datasets/coco_detection_ms-crop.py',
    '../_base_/schedules/adamw_3x.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(arch='base', init_cfg=dict(checkpoint='imagenet:pcpvt-base')))
