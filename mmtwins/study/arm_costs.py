"""What the arms cost: MACs and parameters as counted, time and memory as measured."""

from collections.abc import Sequence
from pathlib import Path

from ..analysis.counting import count
from ..benchmark.machine import describe_machine
from ..benchmark.measure import measure_memory, time_in_turn
from ..benchmark.steps import make_step
from ..benchmark.task import WORKS, Task, Timing
from ..engine.model import build_model
from ..kept_results import Result, keep_result
from .arm_training import Study, config_of, fingerprint


def measure_arms(study: Study, arms: Sequence[str], rounds: int = 7, only_kept: bool = False) -> Result | None:
    """Count and measure the whole models of arms, in turn, so that what else the machine does falls on all alike.

    Args:
        study: What is done alike for all arms.
        arms: Keys of :data:`mmtwins.study.arms.ARMS` with different backbones.
        rounds: How often to time each.
        only_kept: Measure nothing.

    Returns:
        ``machine``, and under ``arms`` for each its ``parameters``, ``macs`` of one image, and for ``training`` (a forward and a
        backward pass of a batch of the config) and ``inference`` (one image) the median ``seconds`` of an image, their
        ``spread`` and the peak ``bytes`` above model and input; None if there is none, with ``only_kept``.
    """
    configs = {arm: config_of(study, arm, 0) for arm in arms}
    prints = {arm: fingerprint(cfg) for arm, cfg in configs.items()}

    def measure() -> Result:
        folder = study.work_dir / 'configs'
        folder.mkdir(parents=True, exist_ok=True)
        found: dict[str, Result] = {}
        for arm, cfg in configs.items():
            cfg.dump(folder / f'{arm}.py')
            cost = count(build_model(cfg), study.size, study.size).total
            found[arm] = dict(fingerprint=prints[arm], parameters=cost.parameters, macs=cost.macs)
        for work in WORKS:
            batch = configs[arms[0]].train_dataloader.batch_size if work == 'training' else 1
            tasks = {arm: _task(work, folder / f'{arm}.py', study.size, batch) for arm in arms}
            seconds = time_in_turn({arm: make_step(task, 'mmtwins') for arm, task in tasks.items()}, rounds)
            for arm, task in tasks.items():
                timing = Timing(arm, task, seconds[arm])
                found[arm][work] = dict(
                    seconds=timing.median / batch,
                    spread=timing.spread / batch,
                    bytes=measure_memory(task, 'mmtwins'),
                    batch=batch,
                )
        return dict(machine=describe_machine('cpu'), size=study.size, arms=found)

    def is_outdated(known: Result) -> bool:
        return any(known['arms'].get(arm, {}).get('fingerprint') != prints[arm] for arm in arms)

    found = keep_result(study.results / 'cost.json', measure, is_outdated, only_kept)
    return None if found is None or is_outdated(found) else found


def _task(work: str, config: Path, size: int, batch: int) -> Task:
    return Task(work, size, size, batch, config=str(config))
