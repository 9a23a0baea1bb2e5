_base_ = [
    '../_base_/models/upernet_twins-pcpvt.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/adamw_160k.py',
    '../_base_/default_runtime.py',
]
# 32 images per iteration, as in the public config and log of this model; the paper says 16.
train_dataloader = dict(batch_size=4)
auto_scale_lr = dict(base_batch_size=32)
