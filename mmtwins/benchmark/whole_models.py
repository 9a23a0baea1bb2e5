"""Training iterations and predictions of whole models, with our backbone and with those of other libraries."""

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn

from ..engine.model import build_model
from ..models.backbone import TwinsSVTBackbone
from ..weights.converting import from_native
from .measure import peak_in_new_process, peak_of_step, synchronize
from .peers import DROP_PATH_RATE, PEERS, build_backbone, published_arch
from .precision import autocast_to
from .real_batches import batches_of, build_loader, fix_size, load_with_data

CANDIDATES = 1000  # boxes that suppression gets from a detector with random weights
WARM_UP_ROUNDS = 1
Batch = dict[str, Any]


@dataclass(frozen=True)
class WholeTask:
    """What is measured of a whole model.

    Args:
        config: Name of a recipe or config file with a Twins-SVT backbone.
        work: ``'training'``: pre-processing, losses, backward pass and update of the weights; ``'inference'``:
            pre-processing and prediction with its post-processing.
        height: Of the images, in pixels.
        width: Of the images, in pixels.
        batch: Images at once.
        precision: ``'fp32'``, or ``'bf16'`` or ``'fp16'`` for autocast.
        device: Such as ``'cpu'`` or ``'cuda:0'``.
        workers: Processes that load images; 0 loads in between.
        data_root: Folder of the data; None takes the config's.
    """

    config: str
    work: str
    height: int
    width: int
    batch: int = 1
    precision: str = 'fp32'
    device: str = 'cpu'
    workers: int = 1
    data_root: str | None = None

    def __str__(self) -> str:
        return f'{self.work} {self.batch} x {self.height} x {self.width} {self.precision}'

    def load(self) -> Config:
        """The config with its data, at the size of the task; raises ValueError as :func:`load_with_data`."""
        cfg = load_with_data(self.config, self.data_root)
        fix_size(cfg, self.height, self.width)
        return cfg

    def synchronize(self) -> None:
        """Wait until a GPU has done what it was given."""
        synchronize(self.device)


class WholeStep:
    """One iteration of a whole model, which can be called with a batch again and again.

    Args:
        task: What to run.
        cfg: From :meth:`WholeTask.load`.
        implementation: ``'mmtwins'`` or one of :data:`mmtwins.benchmark.peers.PEERS`.
        change: Called with the model before it is used, such as :func:`mmtwins.engine.channels_last.use_channels_last`.

    Attributes:
        parts: Seconds of the last iteration by part.

    Raises:
        ImportError: The library is not installed.
        ValueError: The config has another backbone, or an architecture that the implementation has not; a batch has too
            few images for batch norm.
    """

    def __init__(
        self, task: WholeTask, cfg: Config, implementation: str, change: Callable[[Any], object] = lambda model: None
    ) -> None:
        torch.manual_seed(0)
        self.task = task
        cfg = copy.deepcopy(cfg)  # models keep parts of it, such as thresholds, and change them
        model: Any = revert_sync_batchnorm(build_model(cfg))
        if not isinstance(model.backbone, TwinsSVTBackbone):
            raise ValueError(f'the backbone of {task.config} is {type(model.backbone).__name__}, not TwinsSVTBackbone')
        if implementation in PEERS:
            model.backbone = _build_peer(cfg, implementation, model.backbone.state_dict())
        change(model)
        self.model = model.to(task.device).train(task.work == 'training')
        self.parts: dict[str, float] = {}
        if task.work == 'training':
            settings = copy.deepcopy(cfg.optim_wrapper)
            settings.type = 'OptimWrapper'  # autocast is ours: MMEngine's has none for CPUs
            for name in ('loss_scale', 'dtype'):
                settings.pop(name, None)
            self._optimizer = build_optim_wrapper(model, settings)
        model.backbone = self._backbone = _Clocked(model.backbone, task.synchronize)
        model.backbone.train(model.training)

    def __call__(self, batch: Batch) -> Any:
        """Run an iteration, which changes the batch. Returns the losses or the predictions."""
        self._backbone.reset()
        try:
            return self._train(batch) if self.task.work == 'training' else self._predict(batch)
        except ValueError as error:
            if 'more than 1 value per channel' in str(error):
                raise ValueError(f'{self.task.config}: batch norm needs two images or more: give --batch 2') from error
            raise

    def _predict(self, batch: Batch) -> Any:
        clock = _Clock(self.task.synchronize)
        with torch.no_grad(), autocast_to(self.task.precision, self.task.device):
            data = self.model.data_preprocessor(batch, False)
            before = clock.lap()
            results = self.model(**data, mode='predict')
        rest = clock.lap() - self._backbone.seconds
        self.parts = {'pre-processing': before, 'backbone': self._backbone.seconds, 'heads': rest}
        return results

    def _train(self, batch: Batch) -> Any:
        """As MMEngine's ``train_step``."""
        clock = _Clock(self.task.synchronize)
        with autocast_to(self.task.precision, self.task.device):
            data = self.model.data_preprocessor(batch, True)
            before = clock.lap()
            loss, values = self.model.parse_losses(self.model(**data, mode='loss'))
        heads = clock.lap() - self._backbone.seconds
        self._optimizer.backward(loss)
        backward = clock.lap()
        # Autograd goes through the backbone last, because it was run first.
        ours = max(0.0, clock.last - self._backbone.backward_began)  # none if it is frozen
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.parts = {
            'pre-processing': before,
            'backbone': self._backbone.seconds + ours,
            'heads': heads + backward - ours,
            'optimizer': clock.lap(),
        }
        return values


class _Clock:
    """Seconds between the calls of ``lap``."""

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self._synchronize = synchronize
        synchronize()
        self.last = time.perf_counter()

    def lap(self) -> float:
        self._synchronize()
        before, self.last = self.last, time.perf_counter()
        return self.last - before


class _Clocked(nn.Module):
    """A backbone that notes the seconds of its forward passes, and when its backward pass begins."""

    def __init__(self, inner: nn.Module, synchronize: Callable[[], None]) -> None:
        super().__init__()
        self.inner = inner
        self._synchronize = synchronize
        self.reset()

    def reset(self) -> None:
        self.seconds, self.backward_began = 0.0, math.inf

    def forward(self, images: Tensor) -> Any:
        clock = _Clock(self._synchronize)
        maps = self.inner(images)
        self.seconds += clock.lap()
        for one in maps:
            if one.requires_grad:
                one.register_hook(self._note)
        return maps

    def _note(self, gradient: Tensor) -> None:
        self._synchronize()
        self.backward_began = min(self.backward_began, time.perf_counter())


def _build_peer(cfg: Config, implementation: str, weights: Mapping[str, Tensor]) -> nn.Module:
    """The backbone of another library in the place of ours; timm's in the wrapper of OpenMMLab's libraries."""
    arch = published_arch(cfg.filename, cfg.model.backbone, implementation)
    if implementation != 'timm':
        return build_backbone(implementation, arch, weights)
    try:
        from mmseg.models.backbones import TIMMBackbone
    except ImportError:
        from mmpretrain.models.backbones import TIMMBackbone

    settings = dict(features_only=True, pretrained=False, drop_path_rate=DROP_PATH_RATE)
    wrapper = TIMMBackbone(f'twins_svt_{arch}', **settings)
    wrapper.timm_model.model.load_state_dict(from_native(dict(weights), 'timm'), strict=False)  # it has no stage norms
    return wrapper


def find_boxes(step: WholeStep, batch: Batch) -> None:
    """Let a detector with random weights find as many boxes as a trained one, by a lower threshold of the score.

    Without this, its post-processing would have nothing to do. A segmentor stays as it is.

    Args:
        step: Of inference.
        batch: What to find the threshold with.
    """
    model = step.model
    head = getattr(getattr(model, 'roi_head', None), 'bbox_head', getattr(model, 'bbox_head', None))
    if head is None:
        return
    seen: list[Any] = []
    handle = head.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs[0]))
    step(copy.deepcopy(batch))
    handle.remove()
    scores = seen[0]
    flat = (
        scores.softmax(-1)[:, :-1] if isinstance(scores, Tensor) else torch.cat([x.flatten() for x in scores]).sigmoid()
    )
    threshold = flat.flatten().float().topk(min(CANDIDATES, flat.numel())).values[-1].item()
    settings = model.roi_head.test_cfg if hasattr(model, 'roi_head') else head.test_cfg
    settings.score_thr = threshold


@dataclass(frozen=True)
class WholeTiming:
    """Seconds of iterations of one implementation, a value per round.

    Attributes:
        alone: With images that are in memory already.
        loading: With images that workers load meanwhile, from waiting for them to the end of the iteration.
        parts: Median seconds by part, with images in memory.
    """

    alone: tuple[float, ...]
    loading: tuple[float, ...]
    parts: dict[str, float]


def time_whole_models(task: WholeTask, implementations: Sequence[str], rounds: int = 3) -> dict[str, WholeTiming]:
    """Time iterations of whole models in turn, A B C A B C, first without and then with loading.

    Args:
        task: What to run.
        implementations: ``'mmtwins'`` and others out of :data:`mmtwins.benchmark.peers.PEERS`.
        rounds: How often to time each, after one round to warm up, with loading too.

    Returns:
        Timings by implementation. All get the same images without loading, and images of the same size with it.
    """
    cfg = task.load()
    steps = {name: WholeStep(task, cfg, name) for name in implementations}
    batches = batches_of(cfg, task.work, task.batch, WARM_UP_ROUNDS + rounds)
    if task.work == 'inference':
        for step in steps.values():
            find_boxes(step, batches[0])
    alone, parts = time_steps(steps, batches)
    loading: dict[str, list[float]] = {name: [] for name in steps}
    loader: Iterator[Batch] = iter(build_loader(cfg, task.work, task.batch, task.workers))
    next(loader)  # the workers have started; what they share with this process is copied when it is next written
    for number in range(WARM_UP_ROUNDS + rounds):
        for name, step in steps.items():
            clock = _Clock(task.synchronize)
            step(next(loader))
            if number >= WARM_UP_ROUNDS:
                loading[name].append(clock.lap())
    return {name: WholeTiming(alone[name], tuple(loading[name]), parts[name]) for name in steps}


def time_steps(
    steps: Mapping[str, WholeStep], batches: Sequence[Batch], warm_up: int = WARM_UP_ROUNDS
) -> tuple[dict[str, tuple[float, ...]], dict[str, dict[str, float]]]:
    """Run steps in turn with images that are in memory.

    Args:
        steps: By name.
        batches: One for each round.
        warm_up: How many of the rounds are not timed.

    Returns:
        Seconds of each round, and median seconds by part, both by name.
    """
    laps: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    for number, batch in enumerate(batches):
        for name, step in steps.items():
            step(copy.deepcopy(batch))
            if number >= warm_up:
                laps[name].append(step.parts)
    seconds = {name: tuple(sum(parts.values()) for parts in values) for name, values in laps.items()}
    parts = {name: {part: median(one[part] for one in values) for part in values[0]} for name, values in laps.items()}
    return seconds, parts


def memory_of_whole_model(task: WholeTask, implementation: str) -> int | None:
    """Peak memory of one iteration above the model and its images: maps, gradients and the optimizer's values.

    Args:
        task: What to run.
        implementation: ``'mmtwins'`` or one of :data:`mmtwins.benchmark.peers.PEERS`.

    Returns:
        Bytes, as :func:`mmtwins.benchmark.measure.measure_memory`; None where it does not fit.

    Raises:
        ChildProcessError: The process failed for another reason.
    """
    spec = dict(task=asdict(task), implementation=implementation)
    return peak_in_new_process('mmtwins.benchmark.whole_models', 'print_whole_memory', spec)


def print_whole_memory(spec: str) -> None:
    """What the process of :func:`memory_of_whole_model` runs."""
    settings = json.loads(spec)
    task = WholeTask(**settings['task'])
    cfg = task.load()
    step = WholeStep(task, cfg, settings['implementation'])
    (batch,) = batches_of(cfg, task.work, task.batch, 1)
    if task.work == 'inference':
        find_boxes(step, batch)
    print(peak_of_step(lambda: step(batch), task.device))
