# The 3x schedule of the public COCO code: 36 epochs, steps at 27 and 33, the warm-up of 1x, no weight decay on norms and
# position encodings.
_base_ = 'adamw_1x.py'
train_cfg = dict(max_epochs=36)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(custom_keys={'pos_block': dict(decay_mult=0.0), 'norm': dict(decay_mult=0.0)}),
)
param_scheduler = [
    _base_.param_scheduler[0],
    dict(type='MultiStepLR', begin=0, end=36, by_epoch=True, milestones=[27, 33], gamma=0.1),
]
