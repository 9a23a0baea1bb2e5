"""Predictions of the demo's models on held-out scenes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import load_checkpoint

from ..engine.config import load_config
from ..engine.model import build_model
from ..figures.examples import Example, Instances


def predict_examples(
    config: str | Path,
    checkpoint: str | Path,
    number: int,
    min_score: float = 0.5,
    cfg_options: dict | None = None,
) -> tuple[list[Example], Sequence[str], Sequence[tuple]]:
    """Run a trained model on images of its validation set.

    Args:
        config: Config of MMSegmentation or MMDetection whose validation pipeline loads annotations.
        checkpoint: Checkpoint of that config.
        number: How many images of ``val_dataloader.dataset``, from the first on; fewer where it has fewer.
        min_score: Instances with a lower score are left out.
        cfg_options: Changes to the config, as ``--cfg-options`` of the tools.

    Returns:
        The examples, the class names and the palette.
    """
    cfg = load_config(str(config), cfg_options)
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    cfg.model.backbone.init_cfg = None  # the checkpoint has every weight
    model: Any = build_model(cfg)
    load_checkpoint(model, str(checkpoint), map_location='cpu', logger='silent')
    model.eval()
    examples = []
    for index in range(min(number, len(dataset))):
        item = dataset[index]
        with torch.no_grad():
            sample = model.test_step(pseudo_collate([item]))[0]
        pixels = cv2.imread(sample.img_path)
        assert pixels is not None  # the pipeline has read it
        image = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        if 'pred_sem_seg' in sample:
            truth, prediction = (sample.get(key).data[0].cpu().numpy() for key in ('gt_sem_seg', 'pred_sem_seg'))
        else:
            # The output sample has no ground-truth masks, so the truth comes from the input sample.
            gt, pred = item['data_samples'].gt_instances, sample.pred_instances
            pred = pred[pred.scores >= min_score].cpu().numpy()
            truth = Instances(gt.masks.to_ndarray().astype(bool), np.asarray(gt.labels))
            prediction = Instances(pred.masks.astype(bool), pred.labels, pred.scores)
        examples.append(Example(image, truth, prediction))
    return examples, dataset.metainfo['classes'], dataset.metainfo['palette']
