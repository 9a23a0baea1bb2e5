"""What the ledger and configs/imagenet/README.md must say of the classifiers: ours from table and config, the rest as read."""

from collections.abc import Iterator

import numpy as np
from ledger_settings import power_of_ten, row, same
from mmengine.config import Config
from recipes import CONFIGS, step_of

from mmtwins.analysis.published_classifiers import CLASSIFIERS

RUNS = list(CLASSIFIERS.values())
# Of the other logs, main.py divides by 512 and multiplies by 5e-4.
BATCHES = {run.backbone: round(run.log_rate / 5e-4 * 512) for run in RUNS}


def result_rows(folder: str = '') -> Iterator[str]:
    """The published results, one row per architecture."""
    for run in RUNS:
        cells = f'[twins-{run.backbone}]({folder}{run.name}.py) | {run.accuracy}'
        parameters, macs = f'{run.parameters:g}', f'{run.macs[0]:g}'
        yield f'| {cells} | {parameters} | {macs} | table 1 |' if folder else f'| {cells} |'


def readme_texts() -> list[str]:
    """Of configs/imagenet/README.md."""
    run = RUNS[0]
    assert len(RUNS) == 6
    return [
        'Six recipes',
        '([paper](https://arxiv.org/abs/2104.13840), table 1)',
        f'on single crops of {run.size} x {run.size}.',
        f'{run.epochs} epochs of {run.gpus} x {run.images} images at {run.size} x {run.size}:',
        'top-1 accuracy',
        *result_rows(),
        f'`{run.gpus}xb{run.images}` means {run.gpus} GPUs with {run.images} images each.',
    ]


def ledger_texts() -> Iterator[str]:
    """Of docs/reproduction.md."""
    yield f'ImageNet-1k, from random weights; FLOPs at {RUNS[0].size} x {RUNS[0].size}:'
    yield '| config | top-1 accuracy | parameters (M) | FLOPs (G) | source |'
    yield from result_rows('../configs/imagenet/')
    yield from _settings()
    yield from _notes()


def _settings() -> Iterator[str]:
    run = RUNS[0]
    cfg = Config.fromfile(CONFIGS / 'imagenet' / f'{run.name}.py')
    optimizer, (schedule,) = cfg.optim_wrapper.optimizer, cfg.param_scheduler
    train, test = (cfg[f'{split}_dataloader'].dataset.pipeline for split in ('train', 'test'))
    batch = f'{cfg.auto_scale_lr.base_batch_size:,}'
    yield f'## ImageNet-1k, {cfg.train_cfg.max_epochs} epochs'
    yield row('total batch [1]', batch, f'{run.gpus} x {run.images}', f'{batch}; L as 16 x 64', f'{batch}, as 8 x 128')
    betas = ' '.join(map(str, optimizer.betas))
    eps = power_of_ten(optimizer.eps)
    yield same('optimiser', f'AdamW, betas {betas}, eps {eps}', 'AdamW')
    yield row('learning rate [1]', f'{optimizer.lr:g}', '5e-4 for 512 images', f'{optimizer.lr:g}', f'{optimizer.lr:g}')
    start = power_of_ten(schedule.warmup_start)
    late = f'{schedule.warmup} epochs, from {start}, one late'
    yield row('warm-up [2]', '5 epochs', late, '5 epochs, by iteration', late)
    yield row(
        'decay of the rate [2]', 'cosine to 0', 'cosine to 1e-5', 'cosine of 295 epochs to 1e-5', 'as the public code'
    )
    decay = optimizer.weight_decay
    spared = f'{decay}; 0 on `pos_block`, vectors'
    yield row('weight decay [3]', 'not stated', spared, f'{decay}; 0 on vectors')
    clip = cfg.optim_wrapper.clip_grad.max_norm
    yield same('gradient clipping', f'norm {clip}', f'norm {clip}')
    paths = ', '.join(str(one.drop_path) for one in RUNS[:3])
    assert [one.drop_path for one in RUNS[3:]] == [one.drop_path for one in RUNS[:3]]
    yield row('drop path, S, B, L [4]', paths, f'an option; SVT-B {RUNS[1].drop_path}', '0.3', paths)
    augment = step_of(train, 'RandAugment')
    named = f'rand-m{augment.magnitude_level}-mstd{augment.magnitude_std}-inc1'
    yield same('RandAugment', f'`{named}`', 'as DeiT')
    yield row('colour jitter [5]', 'as DeiT', 'names 0.4, has none', 'none', 'none')
    mixup, cutmix = (one.alpha for one in cfg.model.train_cfg.augments)
    yield same('Mixup, CutMix [6]', f'{mixup}, {cutmix}; one per batch', 'as DeiT')
    yield same('random erasing [6]', f'{step_of(train, "RandomErasing").erase_prob}, a value per pixel', 'as DeiT')
    yield same('label smoothing', cfg.model.head.loss.label_smooth_val, 'as DeiT')
    yield row('repeated augmentation [7]', 'as DeiT, which has it', 'off', 'off')
    yield same('average of the weights', 'none')
    yield row('precision', 'not stated', 'mixed', 'float32')
    short, crop = step_of(test, 'ResizeEdge').scale, step_of(test, 'CenterCrop').crop_size
    yield same('test', f'short side {short}, bicubic; centre {crop}')
    yield same('starting weights', 'random')


def _notes() -> Iterator[str]:
    small, other = RUNS[0], RUNS[3]
    rates = f'{small.log_rate:g} for SVT-S, {other.log_rate:g} for PCPVT-S and {RUNS[1].rate:g} for the others'
    yield f'Its highest rates are {rates}; that is {BATCHES["svt-s"]:,}'
    yield f'that is {BATCHES["svt-s"]:,} and {BATCHES["pcpvt-s"]:,} images, if the option `--lr` stayed at 5e-4.'
    yield 'Somebody who trained SVT-S with 2,048 images got 81.1'
    yield '([issue 20](https://github.com/Meituan-AutoML/Twins/issues/20))'
    yield 'the authors answered that they train with 1,024.'
    each = [BATCHES[one.backbone] // one.gpus for one in (small, other)]
    yield f'`train_dataloader.batch_size={each[0]}` (SVT-S) or `{each[1]}` (PCPVT-S), and `--auto-scale-lr`.'
    first, second, sixth = small.learning_rates(np.array([1, 2, 6]))
    assert first == small.warmup_start
    yield f'epochs 0 and 1 have 1e-6, epoch 2 has {second:.2e}, epoch 6 {sixth:.3e}'.replace('e-0', 'e-')
    yield 'at epoch e, counted from 0, the rate is that of t = e - 1 (0 for the first)'
    yield 'below t = 5, 1e-6 + (1e-3 - 1e-6) t / 5; from there on, 1e-5 + (1e-3 - 1e-5)(1 + cos(pi t / 300)) / 2.'
    yield 'on timm 0.3.2.'
    yield 'MMPreTrain 1.2.0: `configs/twins/`'
    yield 'for equal weights within 2e-5 of their spread'
    yield 'The public code multiplies 5e-4 by the batch and divides it by 512.'
    yield f'The paper has {small.batch:,} for all.'
    yield 'values below 0 and above 255'
    yield 'README trains SVT-B with `--drop-path 0.3`; the default of `main.py` is 0.1.'
    counts = {one.backbone: f'{one.log_parameters:,}' for one in RUNS}
    yield f'({counts["svt-s"]} for SVT-S, {counts["pcpvt-l"]} for PCPVT-L)'
