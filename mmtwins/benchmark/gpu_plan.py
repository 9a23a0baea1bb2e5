"""What the GPU report measures, part by part."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from ..engine.config import load_config
from .amp_training import Draw, train_in_amp
from .gpu_parity import FAMILIES, measure_parity
from .gpu_speed import measure_all_attention, measure_speed
from .gpu_tests import run_gpu_tests
from .peers import OURS, installed_peers
from .task import PRECISIONS, WORKS, Task

Size = tuple[int, int]  # height and width in pixels
TOY = 'upernet_twins-svt-toy_1xb8-1600iters_toy-ade-128x128'
TOY_DETECTOR = 'mask-rcnn_twins-svt-toy_fpn_1xb8-600iters_toy-coco'
TINY = dict(embed_dims=(8, 16, 24, 32), depths=(2, 2, 3, 2), num_heads=(1, 2, 3, 4), mlp_ratios=(2, 2, 2, 2))


@dataclass(frozen=True)
class Plan:
    """Sizes and numbers of a GPU report; the defaults are the whole report.

    Args:
        device: Such as ``'cuda:0'``.
        sizes: Images of the backbone.
        batches: Images at once.
        precisions: Keys of :data:`mmtwins.benchmark.task.PRECISIONS`.
        implementations: Ours and others.
        models: Config and image size of whole models.
        model_precisions: Of whole models.
        attention_precisions: Of attention alone, in tensors of that type.
        parity_sizes: Windows of 7 tokens divide no map of the first; the second is that of detectors.
        arch: Of the backbones.
        has_peers: Whether other libraries are measured, too.
        rounds: How often to time each.
        repeats: Calls of an attention in each round.
        iterations: Of the toy training.
        toy_batch: Its images at once.
        toy_scenes: Different images that it sees.
        toy_side: Of its images, in pixels.
        toy_has_schedule: Whether it has the schedule of its config, which begins slowly.
    """

    device: str
    sizes: Sequence[Size] = ((512, 512), (800, 1344))
    batches: Sequence[int] = (1, 16)
    precisions: Sequence[str] = tuple(PRECISIONS)
    implementations: Sequence[str] = OURS
    models: Sequence[tuple[str, Size]] = (
        ('upernet_twins-svt-s_8xb2-160k_ade20k-512x512', (512, 512)),
        ('fpn_twins-svt-s_4xb4-80k_ade20k-512x512', (512, 512)),
        ('mask-rcnn_twins-svt-s_fpn_8xb2-1x_coco', (800, 1344)),
        ('retinanet_twins-svt-s_fpn_8xb2-1x_coco', (800, 1344)),
    )
    model_precisions: Sequence[str] = ('fp32', 'bf16')
    attention_precisions: Sequence[str] = ('fp32', 'bf16', 'fp16')
    parity_sizes: Sequence[Size] = ((250, 333), (800, 1344))
    arch: str | Mapping[str, Sequence] = 'small'
    has_peers: bool = True
    rounds: int = 7
    repeats: int = 10
    iterations: int = 200
    toy_batch: int = 8
    toy_scenes: int = 400
    toy_side: int = 128
    toy_has_schedule: bool = True

    def reduced(self) -> 'Plan':
        """The same with tiny models and images, for a try in seconds; nothing is compiled."""
        return replace(
            self,
            sizes=((64, 64),),
            batches=(1,),
            implementations=('mmtwins', 'mmtwins channels-last'),
            models=((TOY, (64, 64)), (TOY_DETECTOR, (64, 64))),
            model_precisions=('fp32',),
            attention_precisions=('fp32', 'bf16'),
            parity_sizes=((64, 64), (75, 90)),
            arch=TINY,
            has_peers=False,
            rounds=2,
            repeats=1,
            iterations=10,
            toy_batch=2,
            toy_scenes=2,
            toy_side=64,
            toy_has_schedule=False,
        )


class Part(NamedTuple):
    """One thing to measure.

    Attributes:
        name: Kind, and what distinguishes it from others of its kind.
        settings: What the result depends on beside the machine, as plain data for JSON.
        measure: Gives the result, with ``failures`` where something can be wrong.
    """

    name: str
    settings: dict[str, Any]
    measure: Callable[[], dict[str, Any]]

    @property
    def kind(self) -> str:
        return self.name.split()[0]


def make_parts(plan: Plan, root: Path, draw: Callable[[int, int], Any]) -> list[Part]:
    """The parts of a report.

    Args:
        plan: Sizes and numbers.
        root: The checkout, for its tests.
        draw: Called with the number of a scene and its side in pixels; gives image and labels for the toy training.

    Returns:
        Quick checks first.
    """
    return [_part(*entry) for entry in _entries(plan, root, draw)]


def _part(name: str, settings: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> Part:
    return Part(name, json.loads(json.dumps(settings)), measure)


def _entries(plan: Plan, root: Path, draw: Callable[[int, int], Any]) -> Iterator[tuple[str, dict[str, Any], Callable]]:
    settings: dict[str, Any]
    yield 'tests', {}, partial(run_gpu_tests, root)
    for family, size in product(FAMILIES, plan.parity_sizes):
        settings = dict(family=family, size=size, device=plan.device, precisions=plan.precisions, arch=plan.arch)
        yield f'parity {family} {_times(size)}', settings, partial(measure_parity, **settings)
    for precision in [precision for precision in plan.precisions if precision in ('fp16', 'bf16')]:
        numbers = (plan.iterations, plan.toy_batch, plan.toy_scenes, plan.toy_side)
        scene = partial(_draw_one_of, plan, draw)
        yield f'amp {precision}', dict(device=plan.device, numbers=numbers), partial(_train, plan, precision, scene)
    names = [*plan.implementations, *(installed_peers() if plan.has_peers else ())]
    for precision, work, size, batch in product(plan.precisions, WORKS, plan.sizes, plan.batches):
        task = Task(work, *size, batch, precision, plan.device, plan.arch)
        yield f'backbone {_name(task)}', _speed_settings(task, plan), partial(measure_speed, task, names, plan.rounds)
    precisions = [precision for precision in plan.model_precisions if precision in plan.precisions]
    for (config, size), precision, work, batch in product(plan.models, precisions, WORKS, plan.batches):
        batch = max(batch, 2) if work == 'training' else batch  # batch norm of a pooled map needs two values
        task = Task(work, *size, batch, precision, plan.device, config=config)
        measure = partial(measure_speed, task, names, plan.rounds)
        yield f'model {config.split("_")[0]} {_name(task)}', _speed_settings(task, plan), measure
    for size, batch in product(plan.sizes, plan.batches):
        settings = dict(
            size=size,
            batch=batch,
            device=plan.device,
            precisions=[precision for precision in plan.attention_precisions if precision in plan.precisions],
            works=WORKS,
            rounds=plan.rounds,
            repeats=plan.repeats,
            arch=plan.arch,
        )
        yield f'attention {batch}x{_times(size)}', settings, partial(measure_all_attention, **settings)


def _times(size: Size) -> str:
    return f'{size[0]}x{size[1]}'


def _name(task: Task) -> str:
    return f'{task.precision} {task.work} {task.batch}x{task.height}x{task.width}'


def _speed_settings(task: Task, plan: Plan) -> dict[str, Any]:
    return dict(task=asdict(task), implementations=plan.implementations, rounds=plan.rounds)


def _draw_one_of(plan: Plan, draw: Callable[[int, int], Any], number: int) -> Any:
    return draw(number % plan.toy_scenes, plan.toy_side)


def _train(plan: Plan, precision: str, draw: Draw) -> dict[str, Any]:
    cfg: Config = load_config(TOY)
    if not plan.toy_has_schedule:
        cfg.param_scheduler = None
        cfg.model.data_preprocessor.size = (plan.toy_side,) * 2
    return train_in_amp(cfg, draw, precision, plan.device, plan.iterations, plan.toy_batch)
