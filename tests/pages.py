"""What the pages must say, word for word, with the numbers of mmtwins.analysis.published, of the configs and of counted models.

A number of a page is checked if it stands in one of these texts. Numbers that only others state (settings of the paper or of
MMSegmentation's port) stand here as they were read there.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import ledger_classifiers
import ledger_settings
import numpy as np
from mmengine.config import Config
from recipes import DEPTHS, EMBED_DIMS, RECIPES

from mmtwins.analysis.counting import Cost, count
from mmtwins.analysis.published import BACKBONES, LABELLED, LOG_OF_SVT_S, LOGS, RUNS, SCHEDULES, PublishedRun, Schedule
from mmtwins.analysis.run_findings import (
    ACCURACY_NOISE,
    ACCURACY_TOLERANCE,
    BIN,
    FALL,
    LOSS_NOISE,
    LOSS_TOLERANCE,
    METRIC_TOLERANCE,
    RATE_TOLERANCE,
    RISE,
    START,
)

REPOSITORY = Path(__file__).parents[1]
LEDGER = REPOSITORY / 'docs' / 'reproduction.md'
ADE20K, COCO, IMAGENET, TOY = (
    REPOSITORY / 'configs' / folder / 'README.md' for folder in ('ade20k', 'coco', 'imagenet', 'toy')
)
README = REPOSITORY / 'README.md'
# Numbers in names, and in places that are no statement: code blocks, what tools measured and wrote between their markers, targets
# of links, references, numbers of list items.
NO_STATEMENT = re.compile(
    r'```.*?```|<!-- ([\w -]+): begin -->.*?<!-- \1: end -->|\]\([^)]*\)|\]\[[\w-]+\]|^\[[\w-]+\]: .*?$|^ *\d\. |\[\d\]|'
    r'float(?:16|32)|(?i:ADE20K)|ImageNet-1k|\b[13]x\b|COCO 2017',
    re.DOTALL | re.MULTILINE,
)
NUMBER = re.compile(r'\d(?:[\d,.]*\d)?(?:e-\d+)?')


def number_of(value: float | None, digits: int | None = 1, missing: str = 'not published') -> str:
    """A published number; ``digits`` is None for whole numbers such as 228."""
    return missing if value is None else f'{value:g}' if digits is None else f'{value:.{digits}f}'


def length_of(schedule: Schedule) -> str:
    return f'{schedule.iterations:,} iterations' if schedule.iterations else f'{schedule.epochs} epochs'


def result_rows(schedule: Schedule, folder: str = '', costs: bool = False) -> Iterator[str]:
    """The rows of a table of results, one per backbone."""
    for run in RUNS.values():
        if run.schedule is not schedule:
            continue
        metrics = [number_of(value) for value in run.result.metrics]
        cells = [f'[twins-{run.backbone}]({folder}{run.name}.py)', *metrics]
        if costs:
            unknown = 'not found' if run.result.table == 3 else 'not published'
            parameters = run.result.parameters
            macs = number_of(run.result.macs, None, unknown)
            cells += [
                f'{parameters:.0f}' if parameters == 133 else f'{parameters:.1f}',
                macs,
                f'table {run.result.table}',
            ]
        yield f'| {" | ".join(cells)} |'


def folder_texts(dataset: str) -> Iterator[str]:
    """The results in the README of a folder of recipes."""
    for schedule in SCHEDULES.values():
        if schedule.dataset == dataset:
            size = ' x '.join(map(str, schedule.size * (2 // len(schedule.size))))
            yield f'**{schedule.title}**, {length_of(schedule)} of {schedule.gpus} x {schedule.images} images at '
            if not schedule.title.endswith('3x'):
                yield f'of {schedule.gpus} x {schedule.images} images at {size}'
            yield from result_rows(schedule)
    yield '`8xb2` means 8 GPUs with 2 images each.'


def ade20k_texts() -> list[str]:
    runs = [run for run in RUNS.values() if run.schedule.dataset == 'ade20k']
    assert len(runs) == 12
    (large,) = {run.images for run in runs if run.schedule.title == 'UPerNet' and run.images != run.schedule.images}
    return [
        'Twelve recipes',
        '([paper](https://arxiv.org/abs/2104.13840), table 2)',
        *folder_texts('ade20k'),
        f'(PCPVT-S: 8 x {large}, as in its public config and log)',
        'need the fewest MACs at 512 x 512',
    ]


def coco_texts() -> list[str]:
    assert sum(run.schedule.dataset == 'coco' for run in RUNS.values()) == 22
    tables = {
        (run.schedule.head, run.backbone[-1] == 'l'): run.result.table for run in RUNS.values() if 'coco' in run.name
    }
    return [
        'Twenty-two recipes',
        f'table {tables["retinanet", False]} RetinaNet, table {tables["mask-rcnn", False]} Mask R-CNN, '
        f'table {tables["mask-rcnn", True]} the large models',
        *folder_texts('coco'),
        'need the fewest MACs at 800 x 1344',
    ]


def readme_texts() -> list[str]:
    upernet, fpn = (SCHEDULES[title].iterations // 1000 for title in ('UPerNet', 'Semantic FPN'))
    return [
        f'UPerNet ({upernet}k) and Semantic FPN ({fpn}k) on ADE20K',
        f'The {len(RUNS)} recipes for ADE20K and COCO have the public',
        'ADE20K is `ADEChallengeData2016.zip`',
        'COCO is `train2017.zip`, `val2017.zip` and `annotations_trainval2017.zip`',
    ]


def toy_texts() -> list[str]:
    scenes, things = (
        Config.fromfile(next(TOY.parent.glob(f'{head}_*.py'))).classes for head in ('upernet', 'mask-rcnn')
    )
    return [
        *(f'| `{path.name}` |' for path in TOY.parent.glob('*.py')),
        f'{len(scenes) - len(things)} ground and {len(things)} thing classes',
        f'the {len(things)} thing classes of the same scenes',
    ]


@cache
def counted(name: str) -> dict[str, Cost]:
    """The costs of a recipe's model by module, at the size of the ledger; '' is the whole."""
    recipe = next(recipe for recipe in RECIPES if recipe.name == name)
    return count(recipe.model, *((512, 512) if recipe.dataset == 'ade20k' else (800, 600))).costs


def runs_of(title: str) -> dict[str, PublishedRun]:
    """The runs of a schedule by backbone."""
    return {run.backbone: run for run in RUNS.values() if run.schedule.title == title}


def giga(cost: Cost) -> float:
    return cost.macs / 1e9


def cost_rows() -> Iterator[str]:
    """Our counts, with the published ones in brackets, of models and of backbones."""
    for backbone in BACKBONES:
        cells = []
        for title in ('UPerNet', 'Semantic FPN', 'Mask R-CNN 1x', 'RetinaNet 1x'):
            run = runs_of(title)[backbone]
            total, macs = counted(run.name)[''], run.result.macs
            published = '' if macs is None else f' ({macs:g})'
            cells.append(f'{total.parameters / 1e6:.2f} M, {giga(total):.1f} G{published}')
        yield f'| {backbone.upper()} | {" | ".join(cells)} |'
        model = next(recipe for recipe in RECIPES if recipe.backbone == backbone).model.backbone
        total = count(model, 224, 224).total
        parameters, paper, readme = ledger_settings.CLASSIFIERS[backbone]
        ours = f'{total.parameters / 1e6:.2f}, {giga(total):.2f}'
        yield f'| Twins-{backbone.upper()} | {parameters} | {paper} | {readme} | {ours} |'


def cost_texts() -> Iterator[str]:
    """What the ledger says about counts."""
    yield from cost_rows()
    upernet = {key: (giga(counted(run.name)['']), run.result.macs) for key, run in runs_of('UPerNet').items()}
    assert all(abs(ours / published - 1) < 0.01 for ours, published in upernet.values())
    yield '**UPerNet** is within 1 % everywhere'
    costs = counted(runs_of('Mask R-CNN 1x')['svt-s'].name)
    parts = [
        f'{giga(costs[name]):.1f}'
        for name in ('backbone', 'neck', 'rpn_head', 'roi_head.bbox_head', 'roi_head.mask_head')
    ]
    up = giga(costs['roi_head.mask_head.upsample'])
    yield (
        f'SVT-S has {giga(costs[""]):.1f} G at 800 x 600: backbone {parts[0]}, FPN {parts[1]}, RPN {parts[2]}, box head on 1,000 '
        f'proposals {parts[3]}, mask head on 100 of them {parts[4]}.'
    )
    yield f'the missing {164 - giga(costs[""]):.1f} G are in the RoI heads'
    yield f'a transposed convolution (2 x 2, stride 2) that executes {up:.2f} G.'
    named = {
        key: giga(counted(run.name)['']) + 3 * up for key, run in runs_of('Mask R-CNN 1x').items() if run.result.macs
    }
    below = [1 - named[key] / runs_of('Mask R-CNN 1x')[key].result.macs for key in named]
    yield (
        f'adds {3 * up:.1f} G. This gives {named["svt-s"]:.1f} for SVT-S, {named["svt-b"]:.1f} for SVT-B, {named["pcpvt-s"]:.1f} '
        f'for PCPVT-S and {named["pcpvt-b"]:.1f} for PCPVT-B, {100 * min(below):.1f} to {100 * max(below):.1f} % below'
    )
    fpn = {key: (giga(counted(run.name)['']), run.result.macs) for key, run in runs_of('Semantic FPN').items()}
    gaps = [ours - published for ours, published in fpn.values()]
    yield f'the published figures are lower by {min(gaps):.1f} to {max(gaps):.1f} G.'
    for family, start in (('pcpvt', 'Without their'), ('svt', 'For SVT, without')):
        names = [f'{family}-{size}' for size in 'sbl']
        products = [attention_products(name) / 1e9 for name in names]
        rest = [fpn[name][0] - product for name, product in zip(names, products)]
        first, second = ('{:.1f}, {:.1f} and {:.1f}'.format(*values) for values in (products, rest))
        yield f'{start} {first} G, ours are {second}.'
    parameters = counted(runs_of('UPerNet')['svt-s'].name)[''].parameters
    classifier = [f'{(width + 1) / 1e3:.3f} M for {width:,}' for width in (512, 768, 1024)]
    yield (
        f'unused classifier for 1,000 ImageNet classes: {classifier[0]} channels (SVT-S, PCPVT), {classifier[1]} (SVT-B), '
        f'{classifier[2]} (SVT-L).'
    )
    with_classifier = parameters + 513 * 1000 + 2 * 512
    yield f'has {parameters / 1e6:.2f} M; with the classifier and its norm it would have {with_classifier / 1e6:.2f} M.'
    yield 'at 512 x 512 for ADE20K (table 2) and at 800 x 600 for COCO (tables 3 and 4).'
    yield 'by `mmtwins cost CONFIG --size 512` (ADE20K) and `--size 800x600` (COCO).'
    yield '**Backbones** as ImageNet classifiers at 224 x 224. The paper (table 1) and'


def attention_products(backbone: str) -> int:
    """MACs of both products of all attentions of a backbone at 512 x 512, masked windows of 7 x 7 in SVT."""
    total = 0
    for stage, (channels, depth) in enumerate(zip(EMBED_DIMS[backbone], DEPTHS[backbone])):
        side, keys = 128 // 2**stage, (128 // 2**stage // (8, 4, 2, 1)[stage]) ** 2
        local = (depth + 1) // 2 if backbone.startswith('svt') else 0
        windows = (side // 7 * 49 + (side % 7) ** 2) ** 2
        total += 2 * channels * (local * windows + (depth - local) * side**2 * keys)
    return total


def log_texts() -> Iterator[str]:
    """What the ledger says about public logs and mmtwins check-run."""
    yield 'The exit code is 0 on track, 1 off track, and 2 where there is nothing to compare'
    yield 'The public logs average over 50 iterations and all GPUs. MMEngine averages over the last 10 iterations'
    yield f'of the first GPU, with {SCHEDULES["UPerNet"].images} images each.'
    yield 'means over 800 images scatter by 1.5 % before iteration 500 and by 3.4 % after 1,000.'
    spread = [share * math.sqrt(800) for share in (0.015, 0.034)]
    assert [round(share, 1) for share in spread] == [0.4, 1.0]
    yield 'scatters by 40 % to 100 % divided by the root of n'
    yield 'have the loss of the decode head every 50 iterations'
    yield '| log | iteration 50 | 500 | 1,000 | mIoU at 160,000 |'
    yield 'ignored ones (padding and "other") count as 0.'
    yield 'with 0 for "other"?'
    for log in LOGS.values():
        losses = ' | '.join(f'{log.losses[iteration]:.2f}' for iteration in (50, 500, 1000))
        yield f'| `{log.file}` | {losses} | {log.mious[160_000]:.1f} |'
    early, middle, late = (LOG_OF_SVT_S.mious[iteration] for iteration in (16_000, 32_000, 80_000))
    yield f'had {early} mIoU at the first evaluation, at iteration 16,000, then {middle} at 32,000 and {late} at 80,000.'
    yield f'An iteration took {LOG_OF_SVT_S.seconds} s on 8 V100.'
    rates = SCHEDULES['UPerNet'].learning_rates(np.array([49, 499, 999]), np.zeros(3))
    first, second, third = (ledger_settings.power_of_ten(rate, 2) for rate in rates)
    yield f'The learning rate must be {first} at iteration 50, {second} at 500 and {third} at 1,000.'
    yield f'gives all 150 classes the same probability has a loss of ln 150 = {math.log(150):.2f} per labelled pixel.'
    share = f'{LABELLED:.2f}'
    yield f'At iteration 50 the auxiliary head of SVT-S still has 1.63 = 0.4 x {math.log(150):.2f} x {share}, so '
    yield f'so {LABELLED:.0%} of the pixels are labelled.'.replace('%', ' %')
    yield f'divide the published accuracy by {share}, the share of labelled pixels'
    yield f'stays near {LOG_OF_SVT_S.losses[50]:.2f} has learnt nothing.'
    yield f'Neighbouring records (up to a factor of {BIN} in the iteration) are averaged'
    yield f'published loss by {LOSS_TOLERANCE:.0%} and three times the noise.'.replace('%', ' %')
    assert (LOSS_NOISE, ACCURACY_NOISE) == (3.0, 4 * 25.0)
    margin = LOSS_TOLERANCE + LOSS_NOISE * np.mean(np.arange(700, 1001, 50)) / 1000 / math.sqrt(7 * 20)
    yield f'at iteration 1,000, seven records of 20 images may differ by {margin:.0%}.'.replace('%', ' %')
    yield f'May differ by {ACCURACY_TOLERANCE:g} points and four times the noise of 25 points per image.'
    final, way = METRIC_TOLERANCE['final'], METRIC_TOLERANCE['on the way']
    yield f'May be {final:g} point below the published result at the end, and {way:g} points below the log on the way'
    (run,) = (r for r in RUNS.values() if (r.schedule.title, r.backbone) == ('UPerNet', 'pcpvt-b'))
    yield f'two published numbers of PCPVT-B differ by {LOGS["pcpvt-b"].mious[160_000] - run.metrics["mIoU"]:.1f}.'
    yield f'May differ by {100 * RATE_TOLERANCE:g} %.'
    yield f'start no higher than {START} times that of heads'
    yield f'fall by {100 - 100 * FALL:.0f} % at least, and not rise by {100 * RISE - 100:.0f} % again.'


def ledger_texts() -> list[str]:
    texts = [
        'arXiv:2104.13840',
        '| blocks of the last stage [3] | **GSA** (table 10) |',
        '| model | paper, table 2 | public README |',
    ]
    texts += [*ledger_settings.rows(), *ledger_settings.sentences(), *log_texts(), *cost_texts()]
    texts += ledger_classifiers.ledger_texts()
    for schedule in SCHEDULES.values():
        texts += result_rows(schedule, f'../configs/{schedule.dataset}/', costs=True)
        texts.append(f'**{schedule.title}**; FLOPs at {"512 x 512" if schedule.dataset == "ade20k" else "800 x 600"}')
    for backbone, readme in ledger_settings.PUBLIC_README.items():
        (run,) = (run for run in RUNS.values() if (run.schedule.title, run.backbone) == ('UPerNet', backbone))
        texts.append(f'| Twins-{backbone.upper()} | {run.metrics["mIoU"]} | {readme} | {run.log.mious[160_000]:.2f} |')
    return texts


# Each page with the part of it whose numbers are all checked, up to a heading.
PAGES = {
    LEDGER: (ledger_texts, '# Reproduction ledger', None),
    ADE20K: (ade20k_texts, '# ADE20K', '## Starting weights'),
    COCO: (coco_texts, '# COCO', None),
    IMAGENET: (ledger_classifiers.readme_texts, '# ImageNet-1k', None),
    TOY: (toy_texts, '# Toy scenes', None),
    README: (readme_texts, '## Train on ADE20K and COCO', '**Train and test**'),
}


def part_of(page: str, start: str, end: str | None) -> str:
    """From a heading to what ends the part, or to the end of the page."""
    return page[page.index(f'{start}\n') :].split(end or '\0', 1)[0]


def problems(path: Path, page: str, texts: list[str]) -> list[str]:
    """What is wrong with a page: texts that it does not have (as often), and numbers that no text has.

    Args:
        path: A key of PAGES.
        page: Its content.
        texts: What its function in PAGES returns.
    """
    _, start, end = PAGES[path]
    plain = _plain(page)
    wanted = Counter(map(_plain, texts))
    missing = [f'not said: {text}' for text, times in wanted.items() if plain.count(text) < times]
    part = _plain(part_of(page, start, end))
    checked = np.zeros(len(part), bool)
    for text in wanted:
        for found in re.finditer(re.escape(text), part):
            checked[found.start() : found.end()] = True
    numbers = [found for found in NUMBER.finditer(part) if not checked[found.start() : found.end()].all()]
    return missing + [f'not checked: {part[max(0, n.start() - 40) : n.end() + 20]}' for n in numbers]


def _plain(text: str) -> str:
    """Without what is no statement, in one line."""
    return ' '.join(NO_STATEMENT.sub('§', text).replace('**', '').split())
