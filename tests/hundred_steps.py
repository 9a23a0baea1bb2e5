"""A hundred steps of a recipe in miniature beside the same steps of :mod:`plain_twins`, and their picture.

``python tests/hundred_steps.py docs/reproduction/steps.png`` draws the picture of docs/reproduction.md.
"""

import logging
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import plain_twins
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.structures import PixelData
from plain_twins import Batch, Settings
from torch import Tensor, nn

from mmtwins.demo.scenes import CLASSES, draw_scene
from mmtwins.engine.config import load_config
from mmtwins.engine.model import build_model
from mmtwins.plotting import INK, LINES, make_figure, save_figure

CONFIGS = Path(__file__).parents[1] / 'configs'
RECIPES = {
    'Twins-SVT': 'upernet_twins-svt-s_8xb2-160k_ade20k-512x512',
    'Twins-PCPVT': 'upernet_twins-pcpvt-s_8xb4-160k_ade20k-512x512',
}
STEPS = 100
# The schedule is a hundred times shorter than the recipe's, its rate ten times higher. Weight decay is the recipe's.
SETTINGS = Settings(
    num_heads=(1, 2, 3, 4),
    window_size=7,
    pool_scales=(1, 2, 3, 6),
    activation=F.relu,
    rate=10 * 6e-5,
    weight_decay=0.01,
    warmup_steps=15,
    total_steps=1600,
)
EMBED_DIMS = [8, 16, 24, 32]
SIZE = 64  # pixels: 16, 8, 4 and 2 tokens, so that windows of 7 tokens are cut off in every stage


class Run(NamedTuple):
    """The loss before each step, (steps,), and the weights after the last."""

    losses: np.ndarray
    weights: dict[str, Tensor]


def miniature(family: str, smooth: bool) -> Config:
    """A published recipe with a small model, without dropout and drop path, with a shorter schedule at a higher rate.

    Args:
        family: A key of ``RECIPES``.
        smooth: GELU instead of the recipe's ReLU in the heads.
    """
    cfg = load_config(str(CONFIGS / 'ade20k' / f'{RECIPES[family]}.py'))
    model = cfg.model
    model.data_preprocessor.size = (SIZE, SIZE)
    model.backbone.arch = dict(
        embed_dims=EMBED_DIMS, depths=(1, 2, 1, 2), num_heads=SETTINGS.num_heads, mlp_ratios=(4, 4, 2, 2)
    )
    model.backbone.drop_path_rate = 0.0
    model.decode_head.update(in_channels=EMBED_DIMS, channels=16)
    model.auxiliary_head.update(in_channels=EMBED_DIMS[2], channels=16)
    for head in (model.decode_head, model.auxiliary_head):
        head.update(num_classes=len(CLASSES), dropout_ratio=0.0, **(dict(act_cfg=dict(type='GELU')) if smooth else {}))
    cfg.optim_wrapper.optimizer.lr = SETTINGS.rate
    for scheduler in cfg.param_scheduler:
        scheduler.end = (scheduler.end - 1) // 100 + 1
    return cfg


@cache
def batches(steps: int) -> list[Batch]:
    """Two batches of four generated scenes in turn, one for each step."""
    scenes = [draw_scene(0, 'train', i, size=SIZE) for i in range(8)]
    images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2)
    labels = torch.from_numpy(np.stack([scene.labels for scene in scenes])).long() - 1
    pair = [Batch(*halves) for halves in zip(images.split(4), labels.where(labels >= 0, 255).split(4))]
    return [pair[step % 2] for step in range(steps)]


def build(cfg: Config) -> nn.Module:
    """The model of a miniature with the same random weights each time."""
    cfg.model.backbone.pop('init_cfg', None)  # the weights of a published backbone do not fit a small one
    torch.manual_seed(0)
    model = revert_sync_batchnorm(build_model(cfg)).train()
    model.init_weights()
    return model


@cache
def train_recipe(family: str, dtype: torch.dtype, smooth: bool = False, steps: int = STEPS) -> Run:
    """Train as MMEngine's loop does: its optimizer wrapper with the recipe's settings per parameter, its schedulers."""
    from mmseg.structures import SegDataSample

    cfg = miniature(family, smooth)
    model = build(cfg).to(dtype)
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    schedulers = [PARAM_SCHEDULERS.build(s, default_args=dict(optimizer=optim_wrapper)) for s in cfg.param_scheduler]
    losses = []
    for batch in batches(steps):
        samples = [
            SegDataSample(gt_sem_seg=PixelData(data=labels[None]), metainfo=dict(img_shape=(SIZE, SIZE)))
            for labels in batch.labels
        ]
        inputs = [image.flip(0) for image in batch.images]  # BGR, as image files are read
        losses.append(model.train_step(dict(inputs=inputs, data_samples=samples), optim_wrapper)['loss'].item())
        for scheduler in schedulers:
            scheduler.step()
    return Run(np.array(losses), {name: p.detach() for name, p in model.named_parameters()})


@cache
def train_plainly(family: str, dtype: torch.dtype, smooth: bool = False, steps: int = STEPS) -> Run:
    """Train the plain reference from the same weights."""
    weights = {name: p.detach().to(dtype) for name, p in build(miniature(family, smooth)).named_parameters()}
    settings = SETTINGS._replace(activation=plain_twins.gelu) if smooth else SETTINGS
    losses, trained = plain_twins.train(weights, batches(steps), settings)
    return Run(np.array(losses), trained)


def draw(path: str | Path) -> Path:
    """Draw losses and their differences for both families; returns the path."""
    figure, axes = make_figure(len(RECIPES), 2, width=4.8, height=3.2)
    steps = np.arange(1, STEPS + 1)
    for row, family in zip(axes, RECIPES):
        reference = train_plainly(family, torch.float64).losses
        row[0].plot(steps, reference, color=LINES[1], lw=6, alpha=0.35, label='plain reference, float64')
        row[0].plot(steps, train_recipe(family, torch.float32).losses, color=LINES[0], lw=1.3, label='recipe, float32')
        row[0].set(ylabel='loss')
        row[0].set_title(f'UPerNet with {family}', loc='left', fontsize=11, color=INK)
        for label, dtype, smooth, colour in (
            ('recipe, float32', torch.float32, False, LINES[0]),
            ('the same with GELU in the heads', torch.float32, True, LINES[3]),
            ('recipe, float64 (0 drawn as $10^{-17}$)', torch.float64, False, LINES[2]),
        ):
            expected = train_plainly(family, torch.float64, smooth).losses
            difference = np.abs(train_recipe(family, dtype, smooth).losses - expected)
            row[1].semilogy(steps, np.maximum(difference, 1e-17), '.', color=colour, ms=5, label=label)
        for number, name in ((np.float32(reference[0]), 'float32'), (reference[0], 'float64')):
            row[1].axhline(np.spacing(number), color='grey', lw=0.8, ls=':')
            style = dict(fontsize=9, color=INK, bbox=dict(facecolor='white', edgecolor='none', pad=1))
            row[1].text(1, 30 * np.spacing(number), f'dotted: last digit of {name}', ha='left', va='bottom', **style)
        row[1].set(ylabel='absolute difference', ylim=(3e-18, 1e-1))
        row[1].set_title('loss minus that of the plain reference in float64', loc='left', fontsize=11, color=INK)
        for axis in row:
            axis.set(xlabel='step', xlim=(0, STEPS + 1))
            axis.grid(alpha=0.3)
            axis.spines[['top', 'right']].set_visible(False)
        row[0].legend(frameon=False, fontsize=9)
        row[1].legend(frameon=False, fontsize=9, loc='center', bbox_to_anchor=(0.5, 0.42), handletextpad=0.2)
    return save_figure(figure, path)


if __name__ == '__main__':
    logging.disable(logging.INFO)  # MMEngine tells how it initialised each parameter
    print(draw(sys.argv[1]))
