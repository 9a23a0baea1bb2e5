"""The toy configs, and checkpoints of them with random weights."""

from pathlib import Path

import torch

from mmtwins.engine.config import load_config
from mmtwins.engine.model import build_model

CONFIGS = Path(__file__).parents[1] / 'configs'
(SEGMENTOR,) = (CONFIGS / 'toy').glob('upernet*.py')
(DETECTOR,) = (CONFIGS / 'toy').glob('mask-rcnn*.py')
TOYS = dict(mmseg=SEGMENTOR, mmdet=DETECTOR)


def save_toy_checkpoint(library: str, path: Path, meta: dict | None = None, **options: object) -> Path:
    """Save random weights of the toy model of a library.

    Args:
        library: ``'mmseg'`` or ``'mmdet'``.
        path: File to write.
        meta: What a checkpoint of MMEngine notes.
        options: Changes to the config, as ``--cfg-options``.

    Returns:
        ``path``.
    """
    cfg = load_config(str(TOYS[library]), options)
    torch.manual_seed(0)
    model = build_model(cfg)
    if library == 'mmdet':  # fresh heads find nothing
        torch.nn.init.normal_(model.roi_head.bbox_head.fc_cls.weight, std=0.2)
    torch.save(dict(state_dict=model.state_dict(), meta=meta or {}), path)
    return path
