# UPerNet on Twins-SVT-S with the windows and sub-windows that need the fewest MACs at 512 x 512, see docs/gsa.md:
# python tools/gsa_cost.py --size 512x512. Not a published model. A checkpoint's sub-sampling kernels do not have these sizes.
_base_ = [
    '../_base_/models/upernet_twins-svt.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/adamw_160k.py',
    '../_base_/default_runtime.py',
]
model = dict(backbone=dict(window_sizes=(13, 8, 7, 7), sr_ratios=(14, 9, 4, 2)))
