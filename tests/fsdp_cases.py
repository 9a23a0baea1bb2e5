"""Data-parallel training on two gloo processes: ``python fsdp_cases.py RANK STORE OUT CASES`` runs pairs of variant and case.

Each case takes a function that makes a model, so that a model of plain layers can stand in for a backbone: where PyTorch
itself fails on that too, the case says so. A line of OUT per case: the variant, the name, and
``ok`` or tracebacks.
"""

import copy
import functools
import io
import json
import logging
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FullStateDictConfig, FullyShardedDataParallel, StateDictType
from torch.distributed.fsdp.wrap import ModuleWrapPolicy, size_based_auto_wrap_policy
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from mmtwins import TwinsPCPVTBackbone, TwinsSVTBackbone
from mmtwins.models.block import TwinsBlock

try:
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_model_state_dict,
        get_state_dict,
        set_model_state_dict,
        set_state_dict,
    )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
except ImportError:  # torch before 2.6
    fully_shard = None

WORLD_SIZE = 2
ARCH = dict(embed_dims=(16, 32), depths=(2, 2), num_heads=(1, 2), mlp_ratios=(4, 4))
VARIANTS: dict[str, tuple[type[nn.Module], dict]] = {
    **{
        f'svt-{padding}': (TwinsSVTBackbone, dict(window_padding=padding, window_sizes=(7, 3)))
        for padding in ('masked', 'zero', 'meituan')
    },
    'pcpvt': (TwinsPCPVTBackbone, dict()),
}
OTHER_SUBSAMPLINGS: dict[str, tuple[type[nn.Module], dict]] = {  # with rectangular windows and sub-windows
    'svt-separable': (
        TwinsSVTBackbone,
        dict(window_padding='zero', window_sizes=((7, 5), (3, 4)), sr_ratios=((2, 3), 1), subsampling='separable'),
    ),
    'pcpvt-pool': (TwinsPCPVTBackbone, dict(sr_ratios=((3, 2), (1, 2)), subsampling='pool')),
}


def make_backbone(variant: str, seed: int = 0, **kwargs) -> nn.Module:
    """A tiny backbone whose every weight and bias matters, in eval mode."""
    torch.manual_seed(seed)
    family, options = (VARIANTS | OTHER_SUBSAMPLINGS)[variant]
    common = dict(arch=ARCH, sr_ratios=(2, 1), out_indices=(0, 1), norm_after_stage=True, drop_path_rate=0.0)
    model = family(**{**common, **options, **kwargs})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


class PlainBlock(nn.Module):
    """The layers of an MLP, without anything of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.act, self.fc2 = nn.LayerNorm(16), nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(self.act(self.fc1(self.norm(x))))


class PlainModel(nn.Module):
    """The control: images to one feature map, through plain layers alone."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 4, 4)
        self.blocks = nn.ModuleList(PlainBlock() for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor]:
        x = self.embed(x).permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        return (x,)


BLOCKS = (TwinsBlock, PlainBlock)
Make = Callable[[int], nn.Module]


def images(rank: int) -> Tensor:
    return torch.randn(1, 3, 37, 50, generator=torch.Generator().manual_seed(rank))


def train(model: nn.Module, *batches: Tensor) -> list[Tensor]:
    """One step of SGD on the mean loss of the batches; returns the maps of the first."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    maps = [model(batch) for batch in batches]
    (sum((m * m).mean() for out in maps for m in out) / len(batches)).backward()
    optimizer.step()
    return [m.detach() for m in maps[0]]


def expected(make: Make) -> tuple[list[Tensor], dict[str, Tensor]]:
    """What one process computes: the maps of this rank's images, and the weights after a step on those of all."""
    model, ranks = make(0), range(WORLD_SIZE)
    maps = model(images(dist.get_rank()))
    train(model, *(images(rank) for rank in ranks))
    return list(maps), model.state_dict()


def run_wrapped(
    wrap: Callable[[nn.Module], nn.Module], full_weights: Callable[[nn.Module], dict], make: Make
) -> nn.Module:
    """Train a wrapped model for a step and compare it with one process; returns it."""
    maps, weights = expected(make)
    model = wrap(make(0))
    assert_close(train(model, images(dist.get_rank())), maps, rtol=1e-4, atol=1e-5)
    full = full_weights(model)
    assert full.keys() == weights.keys()
    assert_close(full, weights, rtol=1e-4, atol=1e-5)
    return model


def run_ddp(make: Make) -> None:
    run_wrapped(DistributedDataParallel, lambda model: model.module.state_dict(), make)


# fully_shard ----------------------------------------------------------------------------------------------------------


def shard(model: nn.Module, kinds: tuple[type, ...]) -> nn.Module:
    mesh = init_device_mesh('cpu', (WORLD_SIZE,))
    for module in list(model.modules()):
        if isinstance(module, kinds):
            fully_shard(module, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))


def run_fully_shard(make: Make, *, kinds: tuple[type, ...]) -> None:
    run_wrapped(lambda model: shard(model, kinds), whole_weights, make)


def load_full_weights(make: Make, *, kinds: tuple[type, ...], from_rank_0: bool) -> None:
    weights, options = make(1).state_dict(), StateDictOptions(full_state_dict=True, broadcast_from_rank0=from_rank_0)
    model = shard(make(0), kinds)
    set_model_state_dict(model, dict(weights) if dist.get_rank() == 0 or not from_rank_0 else {}, options=options)
    assert_close(whole_weights(model), weights, rtol=0, atol=0)
    assert_close(list(model(images(0))), list(make(1)(images(0))), rtol=1e-4, atol=1e-5)


def load_sharded_weights(make: Make, *, kinds: tuple[type, ...], assign: bool) -> None:
    source, model = shard(make(1), kinds), shard(make(0), kinds)
    missing, unexpected = model.load_state_dict(source.state_dict(), assign=assign)
    assert not missing and not unexpected
    assert_close(whole_weights(model), make(1).state_dict(), rtol=0, atol=0)
    assert_close(list(model(images(0))), list(make(1)(images(0))), rtol=1e-4, atol=1e-5)


def resume_elsewhere(make: Make, *, kinds: tuple[type, ...]) -> None:
    """Train sharded, save weights and optimizer to a file, go on unsharded, save, and go on sharded again."""
    options, ranks = StateDictOptions(full_state_dict=True), range(WORLD_SIZE)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, *batches: Tensor) -> None:
        optimizer.zero_grad()
        (sum((m * m).mean() for batch in batches for m in model(batch)) / len(batches)).backward()
        optimizer.step()

    def hand_over(old: tuple, new: nn.Module) -> tuple:
        """The new model and an optimizer for it, in the state of the old ones."""
        pair = new, torch.optim.AdamW(new.parameters(), lr=0.01, eps=1e-3)
        if old:
            buffer = io.BytesIO()
            torch.save(get_state_dict(*old, options=options), buffer)
            buffer.seek(0)
            weights, state = torch.load(buffer, weights_only=True)
            set_state_dict(*pair, model_state_dict=weights, optim_state_dict=state, options=options)
        return pair

    control = hand_over((), make(0))
    model = hand_over((), shard(make(0), kinds))
    own, every = [images(dist.get_rank())], [images(rank) for rank in ranks]
    for sharded, batches in ((True, own), (False, every), (True, own)):
        step(*model, *batches)
        step(*control, *every)
        weights = whole_weights(model[0])
        assert_close(weights, control[0].state_dict(), rtol=1e-3, atol=1e-5)
        model = hand_over(model, make(1) if sharded else shard(make(1), kinds))


# FullyShardedDataParallel ---------------------------------------------------------------------------------------------


def wrap_fsdp(model: nn.Module, policy: Callable | None, use_orig_params: bool, **kwargs) -> nn.Module:
    return FullyShardedDataParallel(
        model, auto_wrap_policy=policy, use_orig_params=use_orig_params, device_id=torch.device('cpu'), **kwargs
    )


def fsdp_weights(model: nn.Module) -> dict[str, Tensor]:
    config = FullStateDictConfig(offload_to_cpu=False, rank0_only=False)
    with FullyShardedDataParallel.state_dict_type(model, StateDictType.FULL_STATE_DICT, config):
        return copy.deepcopy(model.state_dict())


def run_fsdp(make: Make, *, policy: Callable | None, use_orig_params: bool) -> None:
    run_wrapped(lambda model: wrap_fsdp(model, policy, use_orig_params), fsdp_weights, make)


def load_fsdp_weights(make: Make, *, kind: StateDictType, policy: Callable | None, use_orig_params: bool) -> None:
    source, model = (wrap_fsdp(make(seed), policy, use_orig_params) for seed in (1, 0))
    with FullyShardedDataParallel.state_dict_type(source, kind):
        buffer = io.BytesIO()
        torch.save(source.state_dict(), buffer)
    buffer.seek(0)
    with FullyShardedDataParallel.state_dict_type(model, kind):
        model.load_state_dict(torch.load(buffer, **{'weights_only': False}))  # ShardedTensor is no plain weight
    assert_close(fsdp_weights(model), make(1).state_dict(), rtol=0, atol=0)
    assert_close(list(model(images(0))), list(make(1)(images(0))), rtol=1e-4, atol=1e-5)


CUTS = {'per block': BLOCKS, 'per linear layer': (nn.Linear,), 'whole': ()}
POLICIES: dict[str, Callable | None] = {
    'size 1e3': functools.partial(size_based_auto_wrap_policy, min_num_params=1000),
    'size 1e4': functools.partial(size_based_auto_wrap_policy, min_num_params=10000),
    'block-wise': ModuleWrapPolicy(BLOCKS),
    'whole': None,
}
CASES: dict[str, Callable[[Make], None]] = {
    'DDP': run_ddp,
    **{f'fully_shard, {cut}': functools.partial(run_fully_shard, kinds=kinds) for cut, kinds in CUTS.items()},
    **{
        f'fully_shard, {cut}, full weights{" of rank 0" * from_rank_0}': functools.partial(
            load_full_weights, kinds=CUTS[cut], from_rank_0=from_rank_0
        )
        for cut in ('per block', 'per linear layer')
        for from_rank_0 in (False, True)
    },
    **{
        f'fully_shard, {cut}, sharded weights{", assigned" * assign}': functools.partial(
            load_sharded_weights, kinds=CUTS[cut], assign=assign
        )
        for cut in ('per block', 'per linear layer')
        for assign in (False, True)
    },
    **{
        f'fully_shard, {cut}, resumed unsharded and back': functools.partial(resume_elsewhere, kinds=CUTS[cut])
        for cut in ('per block', 'per linear layer')
    },
    **{
        f'FSDP, {name}{", original parameters" * original}': functools.partial(
            run_fsdp, policy=policy, use_orig_params=original
        )
        for name, policy in POLICIES.items()
        for original in (False, True)
    },
    **{
        f'FSDP, {name}, {kind.name}': functools.partial(
            load_fsdp_weights, kind=kind, policy=POLICIES[name], use_orig_params=kind is StateDictType.FULL_STATE_DICT
        )
        for name in ('size 1e3', 'block-wise')
        for kind in StateDictType
    },
}


class Processes:
    """What this process and its peer tell each other outside of the process group, which may be broken."""

    def __init__(self, rank: int, file: str) -> None:
        self.rank, self.file = rank, dist.FileStore(file, WORLD_SIZE)
        self.file.set_timeout(timedelta(seconds=60))

    def run(self, name: str, case: Callable[[Make], None], make: Make) -> str:
        """Run a case in a process group of its own; returns what failed in either process."""
        store = dist.PrefixStore(f'{name} group', self.file)
        dist.init_process_group(
            'gloo', store=store, rank=self.rank, world_size=WORLD_SIZE, timeout=timedelta(seconds=30)
        )
        try:
            case(make)
            failure = ''
        except Exception:
            failure = traceback.format_exc()
        finally:
            dist.destroy_process_group()  # ends what the other process waits for
        self.file.set(f'{name} {self.rank}', failure)
        failures = [self.file.get(f'{name} {rank}').decode() for rank in range(WORLD_SIZE)]
        return '\n'.join(f'rank {rank}: {failure}' for rank, failure in enumerate(failures) if failure)


def main(rank: str, file: str, out: str, cases: str) -> None:
    warnings.simplefilter('ignore')
    logging.disable()
    torch.set_num_threads(1)
    processes = Processes(int(rank), file)
    with open(out, 'w') as results:
        for variant, name in json.loads(cases):
            case = CASES[name]
            result = processes.run(f'{variant} {name}', case, functools.partial(make_backbone, variant))
            if result and (control := processes.run(f'{variant} {name} control', case, PlainModel)):
                result = f'PyTorch fails with plain layers too: {control}; {result}'
            print(json.dumps([variant, name, result or 'ok']), file=results, flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
