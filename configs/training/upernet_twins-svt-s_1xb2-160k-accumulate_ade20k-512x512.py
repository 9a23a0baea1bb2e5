# The published batch of 16 on one GPU: an update after every eighth iteration of two images. MMEngine counts iterations,
# so there are eight times as many, and as many between validations and checkpoints.
_base_ = '../ade20k/upernet_twins-svt-s_8xb2-160k_ade20k-512x512.py'
accumulate = 8
max_iters = 160000 * accumulate
optim_wrapper = dict(accumulative_counts=accumulate)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, end_factor=1.0, begin=0, end=1500 * accumulate + 1, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=0, end=max_iters + 1, by_epoch=False),
]
train_cfg = dict(max_iters=max_iters, val_interval=16000 * accumulate)
default_hooks = dict(checkpoint=dict(interval=16000 * accumulate))
