# Mask R-CNN on Twins-SVT-S with the windows and sub-windows that need the fewest MACs at 800 x 1344, see docs/gsa.md:
# python tools/gsa_cost.py --size 800x1344. Not a published model. A checkpoint's sub-sampling kernels do not have these sizes.
_base_ = [
    '../_base_/models/mask-rcnn_twins-svt_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_1x.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(
        window_sizes=(15, 11, 7, 7),
        sr_ratios=(16, 12, 7, 3),
        window_padding='masked',  # the published 'zero' is for published checkpoints
    )
)
