# For the toy models: iterations instead of epochs, frequent checkpoints to continue from, a fixed seed.
train_cfg = dict(type='IterBasedTrainLoop')
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', weight_decay=0.01), clip_grad=dict(max_norm=5.0))
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=20, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='SafeCheckpointHook', by_epoch=False, interval=50, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    pictures=dict(type='TrainingPicturesHook'),
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
