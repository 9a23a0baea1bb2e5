"""Time and memory of Twins-SVT here and in mmseg, mmpretrain and timm, whichever is installed, with equal weights."""

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from rich.table import Table
from torch import Tensor, nn

from . import __version__
from .backbone import ARCHITECTURES, TwinsSVTBackbone
from .checkpoint import from_native
from .complexity import backbone_macs

OURS = ('mmtwins', 'mmtwins with_cp', 'mmtwins compiled')
PEERS = {'mmseg': 'mmsegmentation', 'mmpretrain': 'mmpretrain', 'timm': 'timm'}  # distribution by module
PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
WORKS = ('inference', 'training')
GEMM = 'GEMM'
NO_RATIO = 'within noise'
DROP_PATH_RATE = 0.2
WARM_UP_ROUNDS = 2


@dataclass(frozen=True)
class Task:
    """What is measured.

    Args:
        work: ``'inference'``, or ``'training'``: a forward and a backward pass, without an optimizer.
        height: Of the images, in pixels.
        width: Of the images, in pixels.
        batch: Images at once.
        precision: ``'fp32'``, or ``'bf16'`` or ``'fp16'`` for autocast.
        device: ``'cpu'`` or ``'cuda'``.
        arch: ``'small'``, ``'base'`` or ``'large'``.
        config: Config of a whole segmentor or detector; None for the backbone alone.
    """

    work: str
    height: int
    width: int
    batch: int = 1
    precision: str = 'fp32'
    device: str = 'cpu'
    arch: str = 'small'
    config: str | None = None

    def __str__(self) -> str:
        return f'{self.work} {self.batch} x {self.height} x {self.width} {self.precision}'

    @property
    def macs(self) -> int | None:
        """MACs of one step, a training step as three inferences; None for a whole config."""
        if self.config is not None:
            return None
        stages = backbone_macs(self.arch, self.height, self.width)
        return (3 if self.work == 'training' else 1) * self.batch * sum(sum(stage.values()) for stage in stages)


@dataclass(frozen=True)
class Timing:
    """Seconds of one implementation at one task, a value per round."""

    implementation: str
    task: Task
    seconds: tuple[float, ...]

    @property
    def minimum(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return quantile(self.seconds, 0.5)

    @property
    def spread(self) -> float:
        """Between the first and the third quartile."""
        return quantile(self.seconds, 0.75) - quantile(self.seconds, 0.25)

    def speedup_of(self, other: 'Timing') -> float | None:
        """How many times as long this takes as ``other`` by the medians; None where noise could be the difference.

        That is so where the spread of either is larger than the difference of the medians.
        """
        if max(self.spread, other.spread) > abs(self.median - other.median):
            return None
        return self.median / other.median


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of the values lie, interpolated."""
    return torch.tensor(values, dtype=torch.float64).quantile(share).item()


def installed_peers() -> list[str]:
    """The other implementations that can be imported here."""
    found = []
    for module in PEERS:
        try:
            _import_peer(module)
        except ImportError:
            continue
        found.append(module)
    return found


def build_backbone(implementation: str, arch: str = 'small', weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Build Twins-SVT as one of the implementations has it; all return four maps (B, C, H, W).

    Args:
        implementation: One of :data:`OURS` or :data:`PEERS`.
        arch: ``'small'``, ``'base'`` or ``'large'``.
        weights: State dict in native names to load. timm has no norms of stages.

    Returns:
        The backbone, on the CPU.

    Raises:
        ImportError: The library is not installed.
        ValueError: The weights do not fit.
    """
    settings = ARCHITECTURES[arch]
    if implementation in OURS:
        model = TwinsSVTBackbone(arch=arch, drop_path_rate=DROP_PATH_RATE, with_cp=implementation == 'mmtwins with_cp')
        fmt = 'native'
    else:
        fmt, module = implementation, _import_peer(implementation)
        if implementation == 'mmseg':
            model = module.SVT(
                embed_dims=list(settings['embed_dims']),
                num_heads=list(settings['num_heads']),
                mlp_ratios=list(settings['mlp_ratios']),
                depths=list(settings['depths']),
                sr_ratios=[8, 4, 2, 1],
                windiow_sizes=[7, 7, 7, 7],  # the library's own spelling
                norm_after_stage=True,
                drop_path_rate=DROP_PATH_RATE,
            )
        elif implementation == 'mmpretrain':
            model = module.SVT(arch, out_indices=(0, 1, 2, 3), norm_after_stage=True, drop_path_rate=DROP_PATH_RATE)
        else:
            model = _TimmMaps(module.create_model(f'twins_svt_{arch}', drop_path_rate=DROP_PATH_RATE))
    if weights is not None:
        target = model.model if implementation == 'timm' else model
        missing = target.load_state_dict(from_native(weights, fmt), strict=False).missing_keys
        missing = [name for name in missing if not name.startswith(('norm.', 'head.'))]  # of timm's classifier, not run
        if missing:
            raise ValueError(f'{implementation} lacks weights for {", ".join(missing[:3])}')
    if implementation == 'mmtwins compiled':
        model = torch.compile(model)
    return model


def make_step(task: Task, implementation: str, weights: Mapping[str, Tensor] | None = None) -> Callable[[], None]:
    """Build a model and what runs one step of a task on random images.

    Args:
        task: What to run.
        implementation: One of :data:`OURS` or :data:`PEERS`.
        weights: Native state dict to load into the backbone.

    Returns:
        The step.

    Raises:
        ImportError: The library is not installed.
        ValueError: The config has another backbone, or one that the implementation does not have.
    """
    if task.config is None:
        model, samples = build_backbone(implementation, task.arch, weights), None
    else:
        model, samples = _build_model(task, implementation, weights)
    is_training = task.work == 'training'
    model.to(task.device).train(is_training)
    images = torch.randn(task.batch, 3, task.height, task.width, device=task.device)
    precision = PRECISIONS[task.precision]

    def step() -> None:
        autocast = nullcontext() if precision is torch.float32 else torch.autocast(task.device, precision)
        with torch.set_grad_enabled(is_training):
            with autocast:
                loss = _run(model, images, samples)
            if is_training:
                model.zero_grad(set_to_none=True)
                loss.backward()

    return step


def time_in_turn(
    steps: Mapping[str, Callable[[], object]], rounds: int, synchronize: Callable[[], object] = lambda: None
) -> dict[str, tuple[float, ...]]:
    """Run functions in turn, A B C A B C, so that what else the machine does falls on all of them alike.

    Args:
        steps: Functions by name.
        rounds: How often to time each, after two rounds to warm up.
        synchronize: Called before the clock is read.

    Returns:
        Seconds by name, a value per round.
    """
    seconds = {name: [] for name in steps}
    for i in range(WARM_UP_ROUNDS + rounds):
        for name, step in steps.items():
            synchronize()
            start = time.perf_counter()
            step()
            synchronize()
            if i >= WARM_UP_ROUNDS:
                seconds[name].append(time.perf_counter() - start)
    return {name: tuple(values) for name, values in seconds.items()}


def measure_time(task: Task, implementations: Sequence[str], rounds: int = 7) -> tuple[list[Timing], float]:
    """Time implementations at a task in turn, with equal weights.

    Args:
        task: What to run.
        implementations: Out of :data:`OURS` and :data:`PEERS`.
        rounds: How often to time each.

    Returns:
        A timing per implementation, and the machine's GEMM rate in FLOP/s in the same rounds: the best of a product of two
        2048 x 2048 matrices on a CPU, 8192 x 8192 on a GPU, in the precision of the task.
    """
    torch.manual_seed(0)
    weights = TwinsSVTBackbone(arch=task.arch).state_dict() if task.config is None else None
    steps = {name: make_step(task, name, weights) for name in implementations}
    side = 8192 if task.device == 'cuda' else 2048
    a, b = (torch.randn(side, side, device=task.device, dtype=PRECISIONS[task.precision]) for _ in range(2))
    steps[GEMM] = lambda: a @ b
    seconds = time_in_turn(steps, rounds, torch.cuda.synchronize if task.device == 'cuda' else lambda: None)
    rate = 2 * side**3 / min(seconds.pop(GEMM))
    return [Timing(name, task, values) for name, values in seconds.items()], rate


def measure_memory(task: Task, implementation: str) -> int | None:
    """Peak memory of one step above the model and its input.

    Args:
        task: What to run.
        implementation: One of :data:`OURS` or :data:`PEERS`.

    Returns:
        Bytes: resident memory of a fresh process on a CPU, allocated by torch on a GPU; None where it does not fit into
        the machine's free memory.

    Raises:
        ChildProcessError: The process failed for another reason.
    """
    spec = json.dumps(dict(task=asdict(task), implementation=implementation, threads=torch.get_num_threads()))
    command = [sys.executable, '-c', 'from mmtwins.benchmark import print_memory; print_memory()', spec]
    paths = os.pathsep.join(path for path in sys.path if path)
    # glibc gives blocks from 1 MiB on back at once then, so that what counts is what is in use and not how the heap is cut.
    env = {**os.environ, 'PYTHONPATH': paths, 'MALLOC_MMAP_THRESHOLD_': str(2**20)}
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    if result.returncode == 0:
        return int(result.stdout.split()[-1])
    if result.returncode < 0 or re.search(r"can't allocate memory|out of memory|MemoryError", result.stderr):
        return None
    raise ChildProcessError(f'measuring memory of {implementation} failed: {result.stderr.strip()[-500:]}')


def print_memory() -> None:
    """What the process of :func:`measure_memory` runs: print the bytes of the task in its last argument."""
    spec = json.loads(sys.argv[-1])
    torch.set_num_threads(spec['threads'])
    task = Task(**spec['task'])
    step = make_step(task, spec['implementation'])
    if task.device == 'cuda':
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        print(torch.cuda.max_memory_allocated() - before)
        return
    import resource

    # A process that takes more than there is would be killed, or would push others out.
    used = int(re.search(r'VmSize:\s+(\d+)', Path('/proc/self/status').read_text()).group(1)) * 1024
    free = int(re.search(r'MemAvailable:\s+(\d+)', Path('/proc/meminfo').read_text()).group(1)) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + int(0.9 * free),) * 2)
    Path('/proc/self/clear_refs').write_text('5')  # the peak starts again from what is resident now
    before = _resident('VmRSS')
    step()
    print(_resident('VmHWM') - before)


def _resident(field: str) -> int:
    """Bytes that are resident now (``'VmRSS'``) or were at most (``'VmHWM'``)."""
    return int(re.search(rf'{field}:\s+(\d+)', Path('/proc/self/status').read_text()).group(1)) * 1024


def describe_machine(device: str) -> dict[str, str | int]:
    """Processor or GPU, threads and versions."""
    name = platform.processor() or platform.machine()
    if device == 'cuda':
        name = torch.cuda.get_device_name()
    elif Path('/proc/cpuinfo').exists():
        found = re.search(r'model name\s*:\s*(.+)', Path('/proc/cpuinfo').read_text())
        name = found.group(1) if found else name
    machine: dict[str, str | int] = dict(
        device=name, cpus=os.cpu_count() or 0, threads=torch.get_num_threads(), python=platform.python_version()
    )
    machine.update(torch=torch.__version__, mmtwins=__version__)
    for package in PEERS.values():
        try:
            machine[package] = version(package)
        except PackageNotFoundError:
            continue
    return machine


def time_table(timings: Sequence[Timing], rate: float) -> Table:
    """Minimum, median, throughput, what it is in times of ours, and the share of the machine's GEMM rate."""
    ours, task = timings[0], timings[0].task
    table = Table(title=f'{task}; GEMM {rate / 1e9:.0f} GFLOP/s', title_justify='left')
    table.add_column('implementation')
    for title in ('min (ms)', 'median (ms)', 'images/s', f'times {ours.implementation}', 'share of GEMM'):
        table.add_column(title, justify='right')
    for row in time_rows(timings, rate):
        table.add_row(*row)
    return table


def time_rows(timings: Sequence[Timing], rate: float) -> list[list[str]]:
    """The cells of :func:`time_table`."""
    ours, task = timings[0], timings[0].task
    rows = []
    for timing in timings:
        speedup = timing.speedup_of(ours)
        ratio = '1' if timing is ours else NO_RATIO if speedup is None else f'{speedup:.2f}'
        share = '' if task.macs is None else f'{2 * task.macs / timing.minimum / rate:.2f}'
        cells = [f'{timing.minimum * 1e3:.1f}', f'{timing.median * 1e3:.1f}', f'{task.batch / timing.median:.2f}']
        rows.append([timing.implementation, *cells, ratio, share])
    return rows


def memory_table(task: Task, peaks: Mapping[str, int | None]) -> Table:
    """Peak memory, and what it is as a part of each other implementation's."""
    table = Table(title=f'{task}; peak memory above model and input', title_justify='left')
    table.add_column('implementation')
    others = [name for name in peaks if name in PEERS]
    for title in ('MB', *(f'times {name}' for name in others)):
        table.add_column(title, justify='right')
    for row in memory_rows(peaks):
        table.add_row(*row)
    return table


def memory_rows(peaks: Mapping[str, int | None]) -> list[list[str]]:
    """The cells of :func:`memory_table`."""
    rows = []
    for name, peak in peaks.items():
        ratios = [
            '' if not peak or not peaks[other] else f'{peak / peaks[other]:.2f}' for other in peaks if other in PEERS
        ]
        rows.append([name, 'does not fit' if peak is None else f'{peak / 1e6:.0f}', *ratios])
    return rows


def draw_bars(groups: Mapping[str, Mapping[str, float]], unit: str, path: str | Path) -> Path:
    """Draw a bar per implementation for each task.

    Args:
        groups: Values by task and implementation.
        unit: Of the values.
        path: PNG file to write.

    Returns:
        ``path``.
    """
    from .visualization import _figure, _save

    figure, axes = _figure(1, len(groups), width=3.2, height=2.6)
    for axis, (title, values) in zip(axes[0], groups.items()):
        bars = axis.barh(list(values), list(values.values()), color=[_colour(name) for name in values])
        axis.bar_label(bars, fmt='%.3g', padding=2)
        axis.set(title=title, xlabel=unit)
        axis.title.set_fontsize(9)
        axis.margins(x=0.2)
        axis.invert_yaxis()
    return _save(figure, path)


def draw_growth(panels: Mapping[str, Mapping[str, Mapping[int, float]]], xlabel: str, path: str | Path) -> Path:
    """Draw how measures grow, a line per implementation.

    Args:
        panels: Values by measure, implementation and what ``xlabel`` names.
        xlabel: Such as ``'image side (pixels)'``.
        path: PNG file to write.

    Returns:
        ``path``.
    """
    from .visualization import _figure, _save

    figure, axes = _figure(1, len(panels), width=4.2, height=3.2)
    for axis, (title, lines) in zip(axes[0], panels.items()):
        for name, points in lines.items():
            axis.plot(list(points), list(points.values()), marker='o', label=name, color=_colour(name))
        ticks = sorted({x for points in lines.values() for x in points})
        axis.set(title=title, xlabel=xlabel, xscale='log', yscale='log')
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0, 0].legend(frameon=False)
    return _save(figure, path)


def to_json(
    timings: Iterable[tuple[Sequence[Timing], float]], memory: Iterable[tuple[Task, Mapping[str, int | None]]]
) -> dict:
    """Everything measured as plain data: seconds of every round, medians, refused ratios as None."""
    return dict(
        timings=[
            dict(
                task=asdict(timing.task),
                implementation=timing.implementation,
                seconds=timing.seconds,
                minimum=timing.minimum,
                median=timing.median,
                spread=timing.spread,
                ratio=timing.speedup_of(group[0]) if timing is not group[0] else 1.0,
                gemm_flops=rate,
                share_of_gemm=None if timing.task.macs is None else 2 * timing.task.macs / timing.minimum / rate,
            )
            for group, rate in timings
            for timing in group
        ],
        memory=[
            dict(task=asdict(task), implementation=name, peak_bytes=peak)
            for task, peaks in memory
            for name, peak in peaks.items()
        ],
    )


def to_markdown(
    command: str,
    machine: Mapping[str, str | int],
    timings: Iterable[tuple[Sequence[Timing], float]],
    memory: Iterable[tuple[Task, Mapping[str, int | None]]],
) -> str:
    """The tables in Markdown, with the command and the machine."""
    lines = ['```sh', command, '```', '', ', '.join(f'{name} {value}' for name, value in machine.items()), '']
    for group, rate in timings:
        titles = ['implementation', 'min (ms)', 'median (ms)', 'images/s', f'times {group[0].implementation}']
        lines += [f'**{group[0].task}**, GEMM {rate / 1e9:.0f} GFLOP/s', '']
        lines += _markdown_table([*titles, 'share of GEMM'], time_rows(group, rate))
    for task, peaks in memory:
        titles = ['implementation', 'MB', *(f'times {name}' for name in peaks if name in PEERS)]
        lines += [f'**{task}**, peak memory above model and input', '']
        lines += _markdown_table(titles, memory_rows(peaks))
    return '\n'.join(lines)


def update_section(path: str | Path, section: str, text: str) -> None:
    """Replace what stands between ``<!-- SECTION: begin -->`` and ``<!-- SECTION: end -->`` in a Markdown file.

    Raises:
        ValueError: The file has no such section.
    """
    begin, end = f'<!-- {section}: begin -->', f'<!-- {section}: end -->'
    content = Path(path).read_text()
    if content.count(begin) != 1 or end not in content.split(begin)[1]:
        raise ValueError(f'{path} has no section between {begin} and {end}: add these lines')
    before, rest = content.split(begin)
    Path(path).write_text(f'{before}{begin}\n{text}\n{end}{rest.split(end, 1)[1]}')


def _markdown_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [titles, ['---', *['---:'] * (len(titles) - 1)], *rows]
    return [f'| {" | ".join(line)} |' for line in lines] + ['']


class _TimmMaps(nn.Module):
    """timm's model, returning the maps of all stages."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.model.forward_intermediates(x, intermediates_only=True)


def _import_peer(module: str) -> Any:
    if find_spec('torchvision'):  # mmpretrain and timm need it; mmseg imports mmpretrain where that is installed
        _import_torchvision()
    name = {'mmseg': 'mmseg.models.backbones.twins', 'mmpretrain': 'mmpretrain.models.backbones'}.get(module, module)
    return import_module(name)


def _import_torchvision() -> None:
    """Import torchvision even where its compiled operators do not load, as those for CUDA do not beside a CPU torch.

    It registers meta functions for them and fails on the first; mmpretrain's and timm's Twins use none of them, so an
    empty schema of that name is enough.
    """
    global _torchvision
    _torchvision = torch.library.Library('torchvision', 'FRAGMENT')  # schemas live as long as this
    while True:
        try:
            import_module('torchvision')
            return
        except RuntimeError as error:
            missing = re.search(r'operator torchvision::(\w+) does not exist', str(error))
            if missing is None:
                raise ImportError(f'torchvision cannot be imported: {error}') from error
            for name in [name for name in sys.modules if name.split('.')[0] == 'torchvision']:
                del sys.modules[name]
            _torchvision.define(f'{missing[1]}() -> ()')


def _run(model: nn.Module, images: Tensor, samples: list | None) -> Tensor | None:
    """One forward pass of a backbone (without samples) or a whole model; the loss in training."""
    if samples is None:
        maps = model(images)
        return sum(m.float().sum() for m in maps) if model.training else None
    if model.training:
        return model.parse_losses(model(images, samples, mode='loss'))[0]
    model(images, samples, mode='predict')
    return None


def _build_model(task: Task, implementation: str, weights: Mapping[str, Tensor] | None) -> tuple[nn.Module, list]:
    """The model of a config with one implementation's backbone, and samples with random annotations."""
    cfg = Config.fromfile(task.config)
    scope = cfg.get('default_scope')
    init_default_scope(scope)
    model = MODELS.build({'_scope_': scope, **cfg.model})
    if not isinstance(model.backbone, TwinsSVTBackbone):
        raise ValueError(f'the backbone of {task.config} is {type(model.backbone).__name__}, not TwinsSVTBackbone')
    if implementation in PEERS:
        arch = cfg.model.backbone.get('arch', 'small')
        if not isinstance(arch, str):
            raise ValueError(f'{task.config} has an architecture of its own, which {implementation} has not')
        model.backbone = build_backbone(implementation, arch, weights)
    else:
        model.backbone.with_cp = implementation == 'mmtwins with_cp'
        if implementation == 'mmtwins compiled':
            model.backbone = torch.compile(model.backbone)
    make_sample = _make_detection_sample if scope == 'mmdet' else _make_segmentation_sample
    return model, [make_sample(model, task).to(task.device) for _ in range(task.batch)]


def _metainfo(task: Task) -> dict[str, Any]:
    size = (task.height, task.width)
    return dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))


def _make_segmentation_sample(model: nn.Module, task: Task) -> Any:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=_metainfo(task))
    labels = torch.randint(model.decode_head.num_classes, (1, task.height, task.width))
    sample.gt_sem_seg = PixelData(data=labels)
    return sample


def _make_detection_sample(model: nn.Module, task: Task) -> Any:
    import numpy as np
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    number, size = 8, torch.tensor([task.width, task.height])
    corners = torch.rand(number, 2, 2).sort(dim=1).values * size
    instances = InstanceData(bboxes=corners.flatten(1), labels=torch.zeros(number, dtype=torch.long))
    masks = np.zeros((number, task.height, task.width), dtype=np.uint8)
    for mask, ((left, top), (right, bottom)) in zip(masks, corners.long().tolist()):
        mask[top : bottom + 1, left : right + 1] = 1
    instances.masks = BitmapMasks(masks, task.height, task.width)
    sample = DetDataSample(metainfo=_metainfo(task))
    sample.gt_instances = instances
    return sample


def _colour(name: str) -> str:
    return {'mmtwins': '#440154', 'mmseg': '#31688e', 'mmpretrain': '#35b779', 'timm': '#b5a51c'}.get(name, '#8b5a96')
