# The augmentation of the 3x recipes, from DETR: resize to one of 11 short sides; half of the images are cropped first.
scales = [(short_side, 1333) for short_side in range(480, 801, 32)]
ms_crop = dict(
    type='RandomChoice',
    transforms=[
        [dict(type='RandomChoiceResize', scales=scales, keep_ratio=True)],
        [
            dict(type='RandomChoiceResize', scales=[(400, 1333), (500, 1333), (600, 1333)], keep_ratio=True),
            dict(type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600), allow_negative_crop=True),
            dict(type='RandomChoiceResize', scales=scales, keep_ratio=True),
        ],
    ],
)
