"""The ledger's tables of settings and their notes: ours from the configs, the others' as read in their sources."""

import math
from collections.abc import Iterator

from mmengine.config import Config
from recipes import DEPTHS, RECIPES, parse_name, step_of

from mmtwins.analysis import published_classifiers
from mmtwins.analysis.published import BACKBONES, RUNS, SCHEDULES, Schedule

# mIoU of UPerNet in the public README.
PUBLIC_README = dict(zip(BACKBONES, (46.2, 47.4, 48.8, 46.2, 47.1, 48.6)))
# MMSegmentation's port: UPerNet and Semantic FPN, each single and multi-scale.
PORT = {
    'svt-s': (46.08, 46.96, 44.47, 45.42),
    'svt-b': (48.04, 48.87, 46.77, 47.47),
    'svt-l': (49.65, 50.63, 46.55, 47.74),
    'pcpvt-s': (46.04, 46.92, 43.26, 44.11),
    'pcpvt-b': (47.91, 48.64, 45.66, 46.48),
    'pcpvt-l': (49.35, 50.08, 45.94, 46.70),
}
# Backbones as classifiers: parameters (M), FLOPs (G) in the paper and in the public README.
CLASSIFIERS = {run.backbone: (run.parameters, *run.macs) for run in published_classifiers.CLASSIFIERS.values()}
NOT_STATED, NONE = 'not stated', 'none'


def power_of_ten(number: float, digits: int = 0) -> str:
    """6e-5, and plain decimals from 0.001 on."""
    if number >= 0.001:
        return f'{number:g}'
    mantissa, exponent = f'{number:.{digits}e}'.split('e')
    return f'{mantissa}e{int(exponent)}'


def row(setting: str, paper: object, code: object, port: object, ours: object = None) -> str:
    """A row of a table of settings; ours is the public code's if it is not given."""
    return f'| {setting} | {paper} | {code} | {port} | {code if ours is None else ours} |'


def same(setting: str, value: object, paper: object = NOT_STATED, port: object = None) -> str:
    """A row in which public code, port (if it does not say otherwise) and our configs agree."""
    return row(setting, paper, value, value if port is None else port)


def config_of(schedule: Schedule, backbone: str = 'svt-s') -> Config:
    (run,) = (run for run in RUNS.values() if run.schedule is schedule and run.backbone == backbone)
    return parse_name(run.name).cfg


def drop_path(schedule: Schedule, backbone: str) -> float:
    return config_of(schedule, backbone).model.backbone.drop_path_rate


def decay(cfg: Config) -> str:
    keys = cfg.optim_wrapper.get('paramwise_cfg', {}).get('custom_keys', {})
    spared = ', '.join(f'`{key}`' for key in keys)
    return f'{power_of_ten(cfg.optim_wrapper.optimizer.weight_decay)}' + (
        f'; 0 on {spared}' if spared else ', everything'
    )


def optimizer(cfg: Config) -> str:
    betas = cfg.optim_wrapper.optimizer.get('betas')
    return 'AdamW' if betas is None else f'AdamW, betas {betas[0]} {betas[1]}'


def upernet_rows() -> Iterator[str]:
    schedule = SCHEDULES['UPerNet']
    cfg = config_of(schedule)
    rate, batch, length = (
        power_of_ten(cfg.optim_wrapper.optimizer.lr),
        cfg.auto_scale_lr.base_batch_size,
        schedule.iterations,
    )
    small = config_of(schedule, 'pcpvt-s').auto_scale_lr.base_batch_size
    start, warmup = power_of_ten(cfg.param_scheduler[0].start_factor), schedule.warmup
    head, auxiliary = cfg.model.decode_head, cfg.model.auxiliary_head
    pools = ' '.join(map(str, head.pool_scales))
    resize, crop = (step_of(cfg.train_dataloader.dataset.pipeline, kind) for kind in ('RandomResize', 'RandomCrop'))
    flip = step_of(cfg.train_dataloader.dataset.pipeline, 'RandomFlip').prob
    scale = ' x '.join(map(str, resize.scale))
    low, high = resize.ratio_range
    yield f'## UPerNet, {length:,} iterations'
    yield row('total batch [1]', batch, f'{batch}; PCPVT-S {small}', f'{batch}; PCPVT-S {small}')
    yield same('optimiser', optimizer(cfg), 'AdamW')
    yield same('learning rate', rate, rate)
    code = f'{warmup:,}, from {start}, times the decay'
    yield row('warm-up [2]', f'{warmup:,} iterations', code, f'{warmup - 1:,}, from {start}', 'as the public code')
    code = f'linear from 0 to {length:,}'
    yield row(
        'decay of the rate [2]', 'linear to 0', code, f'linear from {warmup:,} to {length - 1:,}', 'as the public code'
    )
    weight_decay = power_of_ten(schedule.weight_decay)
    yield row('weight decay [3]', f'{weight_decay}, whole network', decay(cfg), f'{weight_decay}; 0 on `norm`')
    small, large, ran = (drop_path(schedule, backbone) for backbone in ('svt-s', 'svt-l', 'pcpvt-b'))
    assert {drop_path(schedule, backbone) for backbone in ('svt-b', 'pcpvt-s')} == {small}
    assert drop_path(schedule, 'pcpvt-l') == ran
    yield row('drop path, S and SVT-B', small, small, f'{small}, twice')
    yield row('drop path, SVT-L [4]', small, large, f'{large}, twice')
    yield row('drop path, PCPVT-B, L [4]', small, f'asks {large}, runs {ran}', f'{large}, twice', ran)
    yield same('decode head', f'{head.channels} channels, pools {pools}', 'UPerNet')
    weight = auxiliary.loss_decode.loss_weight
    yield same('auxiliary head', f'FCN, stage {auxiliary.in_index + 1}, {auxiliary.channels}, weight {weight}')
    yield same('head dropout, norms', f'{head.dropout_ratio}, {head.norm_cfg.type}')
    yield same('training images', f'{scale}, x {low} to {high:g}')
    yield same('crop', f'{crop.crop_size[0]}, cat_max_ratio {crop.cat_max_ratio}')
    yield same('flip, colours', f'{flip}, photometric distortion')
    test = step_of(cfg.test_dataloader.dataset.pipeline, 'Resize').scale
    assert tuple(test) == tuple(resize.scale)
    yield same('test', f'{scale}, whole', 'single scale')
    ratios = [step.scale[1] / test[1] for step in cfg.tta_pipeline[-1].transforms[0]]
    span = f'{ratios[0]} to {ratios[-1]} by {ratios[1] - ratios[0]}'
    yield row('multi-scale test [5]', span, f'of {scale}, flip', "of the image's size, flip")


def fpn_rows() -> Iterator[str]:
    schedule = SCHEDULES['Semantic FPN']
    cfg = config_of(schedule)
    rate, batch, images = (
        power_of_ten(cfg.optim_wrapper.optimizer.lr),
        cfg.auto_scale_lr.base_batch_size,
        schedule.images,
    )
    power, last = cfg.param_scheduler[0].power, power_of_ten(cfg.param_scheduler[0].eta_min)
    assert images == cfg.train_dataloader.batch_size
    gpus, readme = batch // images, 8 * images
    yield f'## Semantic FPN, {cfg.train_cfg.max_iters:,} iterations'
    yield row('total batch [1]', batch, f'{images} a GPU; {readme} on 8 GPUs', readme, f'{batch}, as {gpus} x {images}')
    yield same('learning rate', rate, rate)
    yield row('decay of the rate [2]', f'poly, power {power}', f'poly, {power}, to {last}', f'none: poly to {rate}')
    yield same('weight decay [3]', decay(cfg), '5e-4, whole network')
    small, large, other = (drop_path(schedule, backbone) for backbone in ('svt-s', 'svt-l', 'pcpvt-l'))
    assert {drop_path(schedule, backbone) for backbone in ('svt-b', 'pcpvt-s', 'pcpvt-b')} == {small}
    yield row('drop path, S and B', small, small, f'{small}, twice')
    yield row('drop path, SVT-L [3]', 0.4, large, f'{large}, twice')
    yield row('drop path, PCPVT-L [3]', 0.4, other, f'{other}, twice')
    neck, head = cfg.model.neck.out_channels, cfg.model.decode_head
    yield same('neck, head', f'FPN {neck}; head {head.channels}, dropout {head.dropout_ratio}', 'Semantic FPN')


def coco_rows(schedule: Schedule) -> Iterator[str]:
    cfg = config_of(schedule)
    long, retina = schedule.title.endswith('3x'), schedule.head == 'retinanet'
    epochs, steps = cfg.train_cfg.max_epochs, ' and '.join(map(str, cfg.param_scheduler[1].milestones))
    yield same('epochs, steps', f'{epochs}, {steps}', f'{epochs}, not stated' if long else f'{epochs}, {steps}', NONE)
    batch, images = cfg.auto_scale_lr.base_batch_size, cfg.train_dataloader.batch_size
    gpus = batch // images
    code, ours = f'{images} a GPU; {batch} on {gpus} GPUs', f'{batch}, as {gpus} x {images}'
    yield row('total batch', NOT_STATED if long else batch, code, NONE, ours)
    yield same('optimiser', optimizer(cfg), 'AdamW', NONE)
    rate = power_of_ten(cfg.optim_wrapper.optimizer.lr)
    yield same('learning rate', rate, f'not stated; 1x: {rate}' if long and retina else rate, NONE)
    warmup = cfg.param_scheduler[0].end - 1
    text = f'{warmup}, linear from {cfg.param_scheduler[0].start_factor}'
    yield same('warm-up', text, NOT_STATED if long else f'{warmup} iterations', NONE)
    value = power_of_ten(cfg.optim_wrapper.optimizer.weight_decay)
    short = power_of_ten(SCHEDULES['RetinaNet 1x'].weight_decay)
    paper = (f'not stated; 1x: {short}' if retina else f'{value}, whole network') if long else value
    yield same('weight decay [1]' if long else 'weight decay', decay(cfg), paper, NONE)
    rates = {drop_path(schedule, backbone) for backbone in BACKBONES if backbone not in schedule.without}
    assert len(rates) == 1
    yield same('drop path', f'{max(rates)}, L too', NOT_STATED if long else max(rates), NONE)
    pipeline = cfg.train_dataloader.dataset.pipeline
    flip = step_of(pipeline, 'RandomFlip').prob
    if long:
        choice = step_of(pipeline, 'RandomChoice').transforms
        scales = [min(scale) for scale in choice[0][0].scales]
        by = f'{scales[0]} to {scales[-1]} by {scales[1] - scales[0]}'
        (longest,) = {max(scale) for scale in choice[0][0].scales}
        yield same('short side', by, f'{scales[0]} to {scales[-1]}', NONE)
        yield same('long side', f'at most {longest}', f'below {longest}', NONE)
        yield same('flip', flip, NOT_STATED, NONE)
        if not retina:
            first, *_, last = sorted(min(scale) for scale in choice[1][0].scales)
            crop = step_of(choice[1], 'RandomCrop').crop_size
            yield f'With probability {1 / len(choice)} it resizes to one of {len(scales)} short sides.'
            yield f'Otherwise it resizes to {first}, 500 or {last}, crops {crop[0]} to {crop[1]} pixels per side'
    else:
        neck = f'FPN {cfg.model.neck.out_channels}, {cfg.model.neck.num_outs} maps'
        start = cfg.model.neck.get('start_level', 0) + 1
        assert (start > 1) is retina
        yield same('neck', neck + (f', from stage {start}' if retina else ''), NOT_STATED if retina else 'FPN', NONE)
        scale = ' x '.join(map(str, step_of(pipeline, 'Resize').scale))
        yield same('images', f'{scale}, flip {flip}', NOT_STATED, NONE)
    if cfg.optim_wrapper.type == 'AmpOptimWrapper':
        scale = cfg.optim_wrapper.loss_scale
        yield same('precision [3]', f'mixed, loss scale {scale:.0f}', NOT_STATED, NONE)
        yield f'`AmpOptimWrapper(loss_scale={scale})`'


def rows() -> Iterator[str]:
    """All tables of settings, the port's results and the counts of backbones that are published."""
    yield '| sub-sampling per stage [2] | 7 4 2 1 (3.2) | 8 4 2 1 | 8 4 2 1 | 8 4 2 1 |'
    yield same('LayerNorm eps [5]', '1e-6; 1e-5 in patches and GSA', NOT_STATED, '1e-5')
    yield same('position encoding', 'after block 1', 'after block 1')
    (blocks,) = {DEPTHS[f'pcpvt-{size}'][1] for size in 'sb'}
    yield same('blocks in stage 2, PCPVT-S and B [8]', blocks, '3 (table 9)')
    yield from upernet_rows()
    yield from fpn_rows()
    for schedule in SCHEDULES.values():
        if schedule.dataset == 'coco':
            yield from coco_rows(schedule)
    for backbone, (single, multi, fpn, fpn_multi) in PORT.items():
        yield f'| Twins-{backbone.upper()} | {single:.2f} / {multi:.2f} | {fpn:.2f} / {fpn_multi:.2f} |'


def sentences() -> Iterator[str]:
    """The notes, and the sections without a table."""
    upernet, fpn = SCHEDULES['UPerNet'], SCHEDULES['Semantic FPN']
    rate, length, warmup = power_of_ten(upernet.rate), upernet.iterations, upernet.warmup
    yield 'sections 3.2 and 4.1 to 4.3, tables 1 to 4 and 8 to 10.'
    yield 'It runs on MMSegmentation 0.12 and MMDetection 2.8.'
    yield "**mmseg's port**: MMSegmentation 1.2.2:"
    yield 'MMDetection 3.3.0 has no Twins.'
    yield from (
        '[note 1](#the-backbone-in-every-recipe)',
        '[note 3](#mask-r-cnn-3x)',
        '[note 6](#upernet-160000-iterations)',
    )
    yield f'[UPerNet](#upernet-{length}-iterations)'
    yield "LSA's windows are 7 x 7 tokens."
    yield 'covers everything when `pad` is 0.'
    yield f'Crops of {upernet.size[0]} x {upernet.size[0]} need padding on both axes in all four stages'
    yield 'has 7 x 7 sub-windows everywhere, but 4, 2, 1 in the last three stages. Stage 1 of the public code has 8.'
    yield 'Table 10 lists only GSA in stage 4 (read for B and L). At 224 x 224 a 7 x 7 window is the whole map'
    yield f'At {upernet.size[0]} x {upernet.size[0]} it is not.'
    twice = [1 - (1 - p) ** 2 for p in (0.2, 0.3)]
    yield f'A rate p acts as 1 - (1 - p)^2: 0.2 as {twice[0]:.2f}, and 0.3 as {twice[1]:.2f}.'
    yield "mmcv's `build_norm_layer` sets 1e-5 if a config names no eps."
    yield f'training crops have sides of {upernet.size[0]}, so'
    small, base = DEPTHS['pcpvt-s'], DEPTHS['pcpvt-b']
    block = _parameters_of_a_block()
    yield f'has `depths={small}` for S and `{base}` for B'
    parameters = CLASSIFIERS['pcpvt-s'][0]
    yield f'table 1 has {parameters} M parameters for S.'
    yield f'A block of stage 2 has {block:.2f} M, so 3 of them would give {parameters - block:.1f} M.'
    images = {run.backbone: run.images for run in RUNS.values() if run.schedule is upernet}
    full, large = 20_210, upernet.gpus * images['pcpvt-s']
    batch = upernet.gpus * upernet.images
    yield f"The public config of PCPVT-S keeps the base's {images['pcpvt-s']} images per GPU."
    yield f'starts the second epoch before iteration 650, which means {large} images (20,210 / {large} = {full / large:.0f}).'
    yield f'Every other log does so after 1,250 (20,210 / {batch} = {full / batch:,.0f}).'
    yield f"By its log, SVT-B's {batch} were 4 GPUs x 4 images."
    start = power_of_ten(upernet.warmup_start)
    yield f'at iteration t, from 0, the rate is {rate} (1 - t / {length:,}), times 1 - (1 - t / {warmup:,})(1 - {start}) while '
    yield f'while t < {warmup:,}.'
    yield f'the warm-up reaches {rate} at t = {warmup - 1:,}, and the linear decay'
    ahead = 1 / (1 - warmup / length) - 1
    assert math.isclose(ahead, 0.0095, abs_tol=1e-4)
    yield 'So its rate is up to 1.0 % higher until the last hundred iterations.'
    yield f'It ends with 0 at t = {length - 1:,}, where the public rate is {power_of_ten(upernet.rate / length, 2)}.'
    yield 'take `end - begin - 1` steps'
    yield 'The public classes set 0.3 for SVT-L and 0.2 for all others.'
    yield 'so ignore the 0.3 of their configs. The port uses 0.3, and drops twice. That PCPVT-B and L ran with 0.2 is an'
    yield 'In MMSegmentation 1.x, `Resize(scale_factor=...)` scales the image as it is on disk.'
    yield 'The public code scales it to 2048 x 512 first.'
    yield 'MMSegmentation 0.12 divides the number of right pixels by all pixels'
    yield 'Since 0.22 it leaves them out ([issue 1209](https://github.com/open-mmlab/mmsegmentation/issues/1209),'
    yield '[pull request 1259](https://github.com/open-mmlab/mmsegmentation/pull/1259))'
    gpus, each = fpn.gpus, fpn.images
    yield f'have {each} images per GPU and do not say how many GPUs; no log is public. We take {gpus} GPUs x {each} images.'
    yield f'The paper has a batch of {gpus * each} and the same settings as PVT'
    rate, length = power_of_ten(fpn.rate), fpn.iterations
    yield f'"we use 8 gpu instead of {gpus} in mmsegmentation, so lr*2 and max_iters/2"'
    yield f'that is {power_of_ten(2 * fpn.rate)} and {length // 2:,} iterations with the same {each} images per GPU.'
    yield f'The rate of {rate} and the {length:,} iterations of Twins are thus those for {gpus} GPUs.'
    yield 'trains UPerNet on 8 GPUs. On 8 GPUs, `--auto-scale-lr` doubles the rate, and '
    yield f'`train_dataloader.batch_size=2` keeps {8 * 2} images.'
    last = power_of_ten(fpn.final_rate)
    yield f'Public code: {last} + ({rate} - {last})(1 - t / {length:,})^{fpn.power}.'
    yield f"The port's `schedule_80k` ends at `eta_min={rate}`."
    yield f'It was made for SGD from 0.01; from {rate}, the rate never changes.'
    yield 'optim_wrapper.optimizer.weight_decay=5e-4 model.backbone.drop_path_rate=0.4` (drop path for L only).'
    yield "MMSegmentation 0.12 initialises backbone and heads, but never calls the neck's `init_weights`."
    yield "In 1.2.2 the FPN's own Xavier initialisation runs, with 0.58 to 0.89 of that spread."
    (rate,) = {r.cfg.model.backbone.drop_path_rate for r in RECIPES if r.dataset == 'coco'}
    yield f'The detection code has a drop path of {rate} for every backbone, SVT-L included.'
    yield "Paper and code agree. In MMDetection's terms: `start_level=1`, `add_extra_convs='on_input'`."
    yield '| extra maps | not stated | convolutions on stage 4 | none | convolutions on stage 4 |'
    yield '`fp16`'
    yield 'MMDetection 3.3 casts RoIs to the type of the maps. In float16, areas above 65,504 overflow'
    yield 'and RoIs of about 256 to 448 pixels go to P5 instead of P4 in training'
    yield f'The paper gives {SCHEDULES["Mask R-CNN 3x"].weight_decay} only for the 3x training of Mask R-CNN.'


def _parameters_of_a_block() -> float:
    """Of the second stage of PCPVT, in M."""
    recipe = next(recipe for recipe in RECIPES if recipe.backbone == 'pcpvt-s')
    return sum(parameter.numel() for parameter in recipe.model.backbone.blocks[1][1].parameters()) / 1e6
