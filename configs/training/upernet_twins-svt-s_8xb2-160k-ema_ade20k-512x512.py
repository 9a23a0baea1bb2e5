# A moving average of the weights: validation, checkpoints and tests have the average, a resumed training both.
_base_ = '../ade20k/upernet_twins-svt-s_8xb2-160k_ade20k-512x512.py'
custom_hooks = [*_base_.custom_hooks, dict(type='EMAHook', momentum=2e-4)]
