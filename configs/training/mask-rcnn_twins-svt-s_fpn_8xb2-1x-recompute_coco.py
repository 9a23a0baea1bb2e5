# Less memory for more time: the backbone keeps its input alone and is computed again in the backward pass.
_base_ = [
    '../_base_/models/mask-rcnn_twins-svt_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_1x.py',
    '../_base_/default_runtime.py',
]
activation_checkpointing = ['backbone']
