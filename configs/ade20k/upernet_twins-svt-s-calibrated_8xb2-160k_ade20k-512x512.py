# UPerNet on Twins-SVT-S with the windows and sub-windows that need the fewest MACs at 512 x 512, see docs/gsa.md.
# They come from: mmtwins cost --size 512x512
# This is not a published model. The sub-sampling kernels of a public checkpoint are resized when it is loaded.
_base_ = [
    '../_base_/models/upernet_twins-svt.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/adamw_160k.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(window_sizes=(13, 8, 7, 7), sr_ratios=(14, 9, 4, 2)))
