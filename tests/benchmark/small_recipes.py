"""A small segmentor and the toy detector, for toy data."""

from pathlib import Path

CONFIGS = Path(__file__).parents[2] / 'configs'
(DETECTOR,) = (CONFIGS / 'toy').glob('mask-rcnn*.py')
TINY = dict(embed_dims=(8, 16, 16, 16), depths=(2, 2, 1, 1), num_heads=(1, 2, 2, 2), mlp_ratios=(2, 2, 2, 2))


def write_segmentor(folder: Path, arch: str | dict = TINY) -> Path:
    """Write a Semantic FPN that differs from the recipe for ADE20K in the width of its parts alone."""
    (base,) = (CONFIGS / 'ade20k').glob('fpn_twins-svt-s_*.py')
    channels = [64, 128, 256, 512] if isinstance(arch, str) else list(arch['embed_dims'])
    neck, head = dict(in_channels=channels, out_channels=16), dict(in_channels=[16] * 4, channels=8)
    path = folder / 'fpn_twins-svt-s_small.py'
    given = arch if isinstance(arch, str) else dict(arch, _delete_=True)
    model = dict(backbone=dict(arch=given), neck=neck, decode_head=head)
    path.write_text(f'_base_ = {str(base)!r}\nmodel = {model!r}\n')
    return path
