"""A hook that makes a resumed training equal one that was never interrupted."""

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel

from .distributed import CPUDistributedDataParallel
from .loops import ResumableLoop, replace_loop
from .random_states import ITERATION, get_random_states, kept_random_states, seed_random_numbers, set_random_states

KEY = 'exact_resume'  # in a checkpoint


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Keep in a checkpoint what MMEngine leaves out, and continue from it as if nothing had happened.

    Each iteration begins with random states that follow from the run's seed, the iteration and the rank, and each
    sample is augmented with random numbers that follow from the seed and its place in the run. So neither depends on
    what came before, on workers or on validations. A checkpoint holds, under ``exact_resume``, the random states with
    which each rank begins the next iteration, the seed and the place of the sampler, and gradients that wait for an
    update. The number of threads is kept, whatever other processes do. One line at the start says what cannot be exact.
    """

    priority = 'VERY_HIGH'  # before anything draws random numbers

    def __init__(self) -> None:
        self._loaded: dict[str, Any] | None = None
        self._states: dict[str, Any] | None = None  # to begin the next iteration with

    def before_run(self, runner: Runner) -> None:
        """Take over a loop of MMEngine; :func:`mmtwins.engine.runner.build_runner` does so before it is built."""
        if isinstance(runner._train_loop, BaseLoop):
            replace_loop(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remember what the checkpoint holds, until it is known whether the run resumes from it."""
        self._loaded = checkpoint.get(KEY)

    def before_train(self, runner: Runner) -> None:
        """Continue where the checkpoint was, and say in one line what cannot be exact."""
        loop = runner.train_loop
        obstacles = list(_obstacles(runner))
        if not runner.iter:
            begin = 'A run that resumes from a checkpoint of this one'
        else:
            skipped = (
                ' without reading the images before it' if isinstance(loop, ResumableLoop) and loop.batches else ''
            )
            begin = f'Resumed at iteration {runner.iter}{skipped}. The run'
            obstacles = self._resume(runner, loop) + obstacles
        self._loaded = None
        if obstacles:
            runner.logger.warning(f'{begin} does not equal an uninterrupted one bit for bit: {"; ".join(obstacles)}')
        else:
            runner.logger.info(f'{begin} equals an uninterrupted one bit for bit')
        if runner.iter >= runner.max_iters:
            runner.logger.info(f'All {runner.max_iters} iterations are done already: there is nothing left to train')

    def _resume(self, runner: Runner, loop: BaseLoop) -> list[str]:
        """Hand out what the checkpoint holds; return what hinders exactness."""
        is_placed = isinstance(loop, ResumableLoop)
        if self._loaded is None:
            if is_placed:
                epochs = 0 if loop.endless else runner.epoch * len(loop.dataloader)
                loop.resume(runner.iter - epochs)
            return ['the checkpoint has no random states, another program wrote it']
        now, then = _describe(runner), self._loaded['run']
        if is_placed:
            images = (runner.iter - self._loaded['start']) * then['images a step']
            validate = not self._loaded['validated'] and loop.is_validated() and _depends_on_metrics(runner)
            loop.resume(images // now['images a step'], validate)
        sampler = _sampler(loop)
        if self._loaded['sampler_seed'] is not None and hasattr(sampler, 'seed'):
            sampler.seed = self._loaded['sampler_seed']
        if runner.rank < len(self._loaded['random_states']):
            self._states = self._loaded['random_states'][runner.rank]
        parameters = dict(_bare_model(runner).named_parameters())
        for name in self._loaded['gradients'].keys() & parameters.keys():
            parameters[name].grad = self._loaded['gradients'][name].to(parameters[name].device)
        return [f'{key}: {then[key]} in the checkpoint, {now[key]} now' for key in now if now[key] != then[key]]

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set the random states of this iteration."""
        states, self._states = self._states, None
        if states is None:
            self._seed(runner)
        else:
            set_random_states(states)

    def before_val(self, runner: Runner) -> None:
        """Let a validation within a training draw the same random numbers whenever it is done."""
        if isinstance(runner._train_loop, BaseLoop):
            self._seed(runner)

    def _seed(self, runner: Runner) -> None:
        seed_random_numbers(_shared_seed(runner), ITERATION, runner.iter, runner.rank)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add what MMEngine leaves out."""
        meta, loop = checkpoint['meta'], runner.train_loop
        start = meta['iter']
        if isinstance(loop, ResumableLoop) and (
            loop.endless or meta['epoch'] == runner.epoch
        ):  # else the epoch has ended
            start = loop.start
        checkpoint[KEY] = dict(
            random_states=_states_of_all_ranks(runner, meta['iter']),
            sampler_seed=getattr(_sampler(loop), 'seed', None),
            start=start,  # the iteration with which the order of the data began
            validated=(meta['iter'], meta['epoch']) == (runner.iter, runner.epoch),
            gradients=_waiting_gradients(runner),
            run=_describe(runner),
        )


def _shared_seed(runner: Runner) -> int:
    """The seed that all ranks have in common."""
    return runner.seed - runner.rank if runner._randomness_cfg.get('diff_rank_seed') else runner.seed


def _states_of_all_ranks(runner: Runner, iteration: int) -> list[dict[str, Any]]:
    """The random states with which each rank begins an iteration. They follow from the seed, so no rank need send its."""
    states = []
    with kept_random_states():
        for rank in range(runner.world_size):
            seed_random_numbers(_shared_seed(runner), ITERATION, iteration, rank)
            states.append(get_random_states())
    return states


def _waiting_gradients(runner: Runner) -> dict[str, Tensor]:
    """Gradients accumulated since the last update, by name; those of this rank."""
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    if all(one.should_update() for one in wrappers) or isinstance(runner.model, FullyShardedDataParallel):
        return {}
    named = _bare_model(runner).named_parameters()
    return {name: parameter.grad.detach().cpu() for name, parameter in named if parameter.grad is not None}


def _bare_model(runner: Runner) -> torch.nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def _sampler(loop: BaseLoop) -> Any:
    return getattr(loop.dataloader.batch_sampler, 'sampler', None)


def _describe(runner: Runner) -> dict[str, Any]:
    """What has to be the same for a resumed run to be exact."""
    loader = runner.train_loop.dataloader
    sizes = getattr(loader.batch_sampler, 'batch_size', None) or 1
    device = next(_bare_model(runner).parameters()).device
    on_gpu = device.type == 'cuda'
    return {
        'GPUs or processes': runner.world_size,
        'images a step': (sizes if isinstance(sizes, int) else max(sizes)) * runner.world_size,
        'images of the data set': len(loader.dataset),
        'sampler': type(_sampler(runner.train_loop)).__name__,
        'PyTorch': str(torch.__version__),
        'device': torch.cuda.get_device_name(device) if on_gpu else torch.backends.cpu.get_cpu_capability(),
        'CPU threads': 0 if on_gpu else torch.get_num_threads(),
    }


def _depends_on_metrics(runner: Runner) -> bool:
    """Whether a validation changes what follows it."""
    schedulers = runner.param_schedulers or []
    if isinstance(schedulers, dict):
        schedulers = [scheduler for group in schedulers.values() for scheduler in group]
    return any(getattr(scheduler, 'need_val_args', False) for scheduler in schedulers) or any(
        isinstance(hook, EarlyStoppingHook) or (isinstance(hook, CheckpointHook) and hook.save_best)
        for hook in runner.hooks
    )


def _obstacles(runner: Runner) -> Iterator[str]:
    """What keeps a resumed run from being exact, whatever the checkpoint holds."""
    loop = runner.train_loop
    if next(_bare_model(runner).parameters()).is_cuda and not runner._randomness_cfg.get('deterministic'):
        yield 'CUDA kernels add in any order (randomness.deterministic=True takes others, where there are others)'
    is_ddp = isinstance(runner.model, DistributedDataParallel)
    if is_ddp and runner.world_size > 2 and not isinstance(runner.model, CPUDistributedDataParallel):
        yield 'a first step adds the gradients of more than two processes in another order than later ones'
    if not isinstance(loop, ResumableLoop):
        yield f'{type(loop).__name__} chooses its data itself'
    elif loop.batches is None:
        yield f'{type(loop.dataloader.dataset).__name__} has no order to continue in'
    elif not hasattr(_sampler(loop), 'seed'):
        yield f'{type(_sampler(loop)).__name__} has no seed'
    caching = sorted({type(step).__name__ for step in _iter_transforms(loop.dataloader.dataset)})
    yield from (
        f'{name} mixes in images that its worker loaded before' for name in caching if name.startswith('Cached')
    )
    if runner.world_size > 1 and runner.cfg.get('optim_wrapper', {}).get('accumulative_counts', 1) > 1:
        kept = 'no gradients' if isinstance(runner.model, FullyShardedDataParallel) else 'the gradients of rank 0 only'
        yield f'a checkpoint between two updates has {kept}'


def _iter_transforms(dataset: Any) -> Iterator[Any]:
    """The transforms of a data set and of those inside it."""
    pipeline = getattr(dataset, 'pipeline', None)
    yield from getattr(pipeline, 'transforms', None) or (pipeline if isinstance(pipeline, list) else [])
    inner = getattr(dataset, 'dataset', None)
    for part in [*(getattr(dataset, 'datasets', None) or []), *([] if inner is None else [inner])]:
        yield from _iter_transforms(part)
