_base_ = [
    '../_base_/models/classifier_twins-pcpvt.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/adamw_300e.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(arch='large', drop_path_rate=0.5))
