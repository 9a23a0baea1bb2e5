"""Time and memory of Twins-SVT here and in mmseg, mmpretrain and timm, whichever is installed, with equal weights."""

import json
import os
import platform
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from .. import __version__
from ..analysis.cost import backbone_macs
from ..engine.launch import load_config
from ..engine.model import build_model
from ..models.backbone import TwinsSVTBackbone
from .peers import PEERS, build_backbone

PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
WORKS = ('inference', 'training')
GEMM = 'GEMM'
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


def make_step(task: Task, implementation: str, weights: Mapping[str, Tensor] | None = None) -> Callable[[], None]:
    """Build a model and what runs one step of a task on random images.

    Args:
        task: What to run.
        implementation: One of :data:`mmtwins.benchmark.peers.OURS` or :data:`mmtwins.benchmark.peers.PEERS`.
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
        implementations: Out of :data:`mmtwins.benchmark.peers.OURS` and :data:`mmtwins.benchmark.peers.PEERS`.
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
    seconds = time_in_turn(steps, rounds, partial(_synchronize, task))
    rate = 2 * side**3 / min(seconds.pop(GEMM))
    return [Timing(name, task, values) for name, values in seconds.items()], rate


def measure_parts(task: Task, rounds: int = 7) -> dict[str, float]:
    """Where the time of our inference goes.

    Args:
        task: What to run; inference, since a backward pass does not run module by module.
        rounds: How often to run it, after two rounds to warm up.

    Returns:
        Seconds of a step by class of module, without the modules inside; the longest first.

    Raises:
        ValueError: The task is training.
    """
    if task.work != 'inference':
        raise ValueError(f'{task}: a profile is of inference')
    torch.manual_seed(0)
    step, seconds = make_step(task, 'mmtwins'), Counter()
    stack: list[str] = []
    clock = 0.0

    def charge() -> None:
        nonlocal clock
        _synchronize(task)
        now = time.perf_counter()
        if stack:
            seconds[stack[-1]] += (now - clock) / rounds
        clock = now

    def enter(module: nn.Module, *_: object) -> None:
        charge()
        stack.append(type(module).__name__)

    def leave(*_: object) -> None:
        charge()
        stack.pop()

    for _ in range(WARM_UP_ROUNDS):
        step()
    with register_module_forward_pre_hook(enter), register_module_forward_hook(leave):
        for _ in range(rounds):
            step()
    return dict(seconds.most_common())


def _synchronize(task: Task) -> None:
    if task.device == 'cuda':
        torch.cuda.synchronize()


def measure_memory(task: Task, implementation: str) -> int | None:
    """Peak memory of one step above the model and its input.

    Args:
        task: What to run.
        implementation: One of :data:`mmtwins.benchmark.peers.OURS` or :data:`mmtwins.benchmark.peers.PEERS`.

    Returns:
        Bytes: resident memory of a fresh process on a CPU, allocated by torch on a GPU; None where it does not fit into
        the machine's free memory.

    Raises:
        ChildProcessError: The process failed for another reason.
    """
    spec = json.dumps(dict(task=asdict(task), implementation=implementation, threads=torch.get_num_threads()))
    command = [sys.executable, '-c', 'from mmtwins.benchmark.measure import print_memory; print_memory()', spec]
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


def processor_name() -> str:
    """The CPU as the system names it."""
    info = Path('/proc/cpuinfo')
    found = re.search(r'model name\s*:\s*(.+)', info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def describe_machine(device: str) -> dict[str, str | int]:
    """Processor or GPU, threads and versions."""
    name = torch.cuda.get_device_name() if device.startswith('cuda') else processor_name()
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
    cfg = load_config(task.config)
    init_default_scope(cfg.get('default_scope'))
    model = build_model(cfg)
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
    make_sample = _make_detection_sample if cfg.get('default_scope') == 'mmdet' else _make_segmentation_sample
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
