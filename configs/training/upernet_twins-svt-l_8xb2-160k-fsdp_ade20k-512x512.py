# Weights, gradients and Adam's moments are spread over the GPUs, by MMEngine's FSDPStrategy as mended here.
_base_ = '../ade20k/upernet_twins-svt-l_8xb2-160k_ade20k-512x512.py'
runner_type = 'FlexibleRunner'
strategy = dict(type='TwinsFSDPStrategy')
