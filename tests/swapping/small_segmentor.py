"""A segmentor whose swap needs no data and little time."""

from typing import Any

from mmengine.config import Config


def small_segmentor(**settings: Any) -> Config:
    """A config of MMSegmentation; the settings are those of the model."""
    model = dict(
        type='EncoderDecoder',
        backbone=dict(type='TwinsSVTBackbone'),
        decode_head=dict(type='FCNHead', in_channels=512, channels=8, num_classes=2, num_convs=1),
    )
    return Config(dict(default_scope='mmseg', model={**model, **settings}))
