"""Work directories of trainings that nobody ran: the files that MMEngine writes, with numbers by formula."""

import json
import math
from pathlib import Path

import numpy as np
from mmengine.config import Config

from mmtwins.analysis.published import LOG_OF_SVT_S, RUNS, PublishedRun

CONFIGS = Path(__file__).parents[1] / 'configs'
SVT_S = 'upernet_twins-svt-s_8xb2-160k_ade20k-512x512'
MASK_RCNN = 'mask-rcnn_twins-svt-s_fpn_8xb2-1x_coco'


def recipe_of(name: str, **changes: object) -> Config:
    """The config of a published recipe as MMEngine keeps it, started on several GPUs."""
    run = RUNS[name]
    cfg = Config.fromfile(CONFIGS / run.schedule.dataset / f'{name}.py', import_custom_modules=False)
    cfg.merge_from_dict({'launcher': 'pytorch', **changes})
    return cfg


def write_run(
    work_dir: Path,
    records: list[dict],
    cfg: Config | None = None,
    stamp: str = '20260101_100000',
    world_size: int = 8,
    rest: str = '',
    text: str = '',
) -> Path:
    """Write a run as MMEngine does; ``rest`` follows the last record, ``text`` the first line of the text log."""
    folder = work_dir / stamp / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text(''.join(json.dumps(record) + '\n' for record in records) + rest)
    (folder.parent / f'{stamp}.log').write_text(f'    GPU number: {world_size}\n{text}')
    if cfg is not None:
        cfg.dump(folder / 'config.py')
    return work_dir


def svt_s_records(
    last: int, first: int = 50, loss: float = 1.0, rate: float = 1.0, miou: float = 0.0, seed: int = 0
) -> list[dict]:
    """What UPerNet SVT-S logs when it trains as published, with the noise of 20 images (loss) and 2 images (accuracy).

    Args:
        last: Last iteration.
        first: First iteration.
        loss: Factor of the losses.
        rate: Factor of the learning rate.
        miou: Added to the mIoU.
        seed: Of the noise.
    """
    generator = np.random.default_rng(seed)
    iterations = np.arange(first, last + 1, 50)
    decode = loss * LOG_OF_SVT_S.loss_at(iterations)
    decode *= 1 + generator.normal(size=len(iterations)) * np.clip(iterations / 1000, 0.4, 1) / math.sqrt(20)
    accuracy = (
        LOG_OF_SVT_S.accuracy_at(np.maximum(iterations, 200)) + generator.normal(size=len(iterations)) * 25 / 2**0.5
    )
    rates = rate * RUNS[SVT_S].schedule.learning_rates(iterations - 1, np.zeros(len(iterations)))
    records = []
    for row in zip(iterations, rates, decode, accuracy.clip(0, 100), strict=True):
        step, lr, value, percent = (int(row[0]), *map(float, row[1:]))
        losses = {'decode.loss_ce': value, 'decode.acc_seg': percent, 'aux.loss_ce': 0.4 * value, 'loss': 1.4 * value}
        records.append(dict(lr=lr, data_time=0.01, time=0.35, iter=step, step=step, **losses))
        if step % 16_000 == 0:
            records.append(dict(aAcc=78.0, mIoU=LOG_OF_SVT_S.miou_at(step) + miou, data_time=0.1, time=0.2, step=step))
    return records


def epoch_records(
    run: PublishedRun, epochs: int, length: int, fall: float = 0.5, metric: float | None = None
) -> list[dict]:
    """What a detector logs that trains in epochs: every 50 iterations, and metrics by epoch.

    Args:
        run: Whose learning rates it has.
        epochs: Number of epochs.
        length: Iterations of an epoch.
        fall: Last loss, as a share of the first.
        metric: Box AP of the last epoch in percent; each epoch before has a point less.
    """
    records = []
    for epoch in range(epochs):
        for iteration in range(49, length, 50):
            step = epoch * length + iteration
            (lr,) = run.schedule.learning_rates(np.array([step]), np.array([epoch]))
            loss = 2.0 * fall ** (step / (epochs * length))
            names = {'loss_rpn_cls': 0.2 * loss, 'loss_cls': 0.4 * loss, 'loss_mask': 0.4 * loss, 'loss': loss}
            timing = dict(data_time=0.01, time=0.4, memory=9000)
            records.append(dict(lr=float(lr), **names, **timing, epoch=epoch + 1, iter=step + 1, step=step + 1))
        if metric is not None:
            records.append(
                {'coco/bbox_mAP': (metric - (epochs - 1 - epoch)) / 100, 'data_time': 0.1, 'step': epoch + 1}
            )
    return records
