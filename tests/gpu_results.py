"""Results of parts of a GPU report, as they are kept, for tests of its page and charts."""

from typing import Any

from mmtwins.benchmark.gpu_parity import TOLERANCES
from mmtwins.benchmark.measure import NO_ROOM
from mmtwins.benchmark.products import Product, Rate
from mmtwins.benchmark.report import to_json
from mmtwins.benchmark.sdpa import CHOSEN, EXPLICIT
from mmtwins.benchmark.task import Task, Timing

RATE = Rate(Product('matrix product', 'cuBLAS', (8, 8, 8)), 1e12)


def result(name: str, measured: dict[str, Any] | None, state: str = 'done', reason: str = '') -> dict[str, Any]:
    return dict(name=name, state=state, reason=reason, measured=measured, seconds=1.0, settings={}, machine={})


def speed(task: Task, milliseconds: dict[str, float | None], errors: dict[str, str] | None = None) -> dict[str, Any]:
    """Medians by implementation; None does not fit."""
    timings = [Timing(name, task, (ms / 1e3,) * 3) for name, ms in milliseconds.items() if ms is not None]
    peaks = {name: None if ms is None else round(ms * 1e6) for name, ms in milliseconds.items()}
    measured = to_json([(timings, RATE)] if timings else [], [(task, peaks)], [])
    return dict(timings=measured['timings'], memory=measured['memory'], errors=errors or {}, failures=[])


def all_kinds() -> list[dict[str, Any]]:
    task = Task('inference', 512, 512, device='cuda:0')
    allowed = TOLERANCES['bf16']._asdict()
    rows = [
        dict(precision='bf16', allowed=allowed, errors=dict(features=0.03, gradients=0.6), passed=False),
        dict(precision='fp32', allowed=TOLERANCES['fp32']._asdict(), reason=NO_ROOM),
    ]
    failure = 'gradients of svt at 250 x 333 in bf16 differ by 0.6, more than 0.3'
    ways = {CHOSEN: dict(seconds=[2e-3, 3e-3]), 'cuDNN': dict(reason='not available: x'), 'math': dict(reason=NO_ROOM)}
    lsa = dict(precision='bf16', work='inference', name='LSA 1', ways=ways | {EXPLICIT: dict(seconds=[1e-3, 1e-3])})
    losses = [4.0] * 20 + [2.0] * 180
    amp = dict(losses=losses, wrapper='AmpOptimWrapper', loss_scale=65536.0, peak_bytes=10**9, failures=[])
    counts = dict(passed=40, failed=0, skipped=1, skipped_because=['mmdet is not installed'], failures=[])
    backbone = speed(task, {'mmtwins': 10.0, 'mmseg': None, 'timm': 18.0}, {'mmpretrain': 'RuntimeError: broken'})
    return [
        result('tests', counts),
        result('parity svt 250x333', dict(rows=rows, failures=[failure]), 'failed', failure),
        result('amp fp16', amp),
        result('backbone fp32 inference 1x512x512', backbone),
        result('backbone fp32 inference 16x512x512', None, 'left out', f'backbone ... was left out: it {NO_ROOM}'),
        result('model upernet fp32 inference 1x512x512', speed(task, {'mmtwins': 40.0})),
        result('attention 1x512x512', dict(rows=[lsa, dict(lsa, name='GSA 1', ways={})])),
        result('amp bf16', None, 'error', 'amp bf16 ended with RuntimeError: no bf16'),
    ]
