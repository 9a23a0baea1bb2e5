# Mask R-CNN on Twins-SVT-S with the windows and sub-windows that need the fewest MACs at 800 x 1344, see docs/gsa.md.
# They come from: mmtwins cost --size 800x1344
# This is not a published model. The sub-sampling kernels of a public checkpoint are resized when it is loaded.
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
        window_padding='masked',  # 'zero' is only for published checkpoints
    )
)
