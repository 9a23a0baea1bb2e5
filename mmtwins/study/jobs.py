"""All jobs of the study: which there are, and how several processes share them."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch

from ..engine.config import load_config
from ..engine.scalars import read_scalars
from ..kept_results import Result
from .arm_costs import measure_arms
from .arm_training import CONFIG, Study, config_of, prepare, train
from .arms import ARMS, trained_as
from .zero_shot import CHANGES, change_windows, config_of_change


class Job(NamedTuple):
    """A training: of an arm (``'train'``), or of the arm k7 with changed windows (``'change'``)."""

    kind: str
    name: str
    seed: int


def all_jobs(study: Study, arms: Sequence[str] = tuple(ARMS), seeds: Sequence[int] = (0, 1, 2)) -> list[Job]:
    """The jobs of a study, seed by seed; arms with the same backbone are trained once.

    Args:
        study: What is done alike for all arms.
        arms: Keys of :data:`mmtwins.study.arms.ARMS`; with ``'k7'`` among them, its windows are changed, too.
        seeds: Of the trainings.

    Returns:
        The jobs; those that need a trained model come behind its training.
    """
    names = distinct_arms(study, arms)
    jobs = [Job('train', name, seed) for seed, name in product(seeds, names)]
    return jobs + [Job('change', name, seed) for seed, name in product(seeds, CHANGES) if 'k7' in names]


def distinct_arms(study: Study, arms: Sequence[str]) -> list[str]:
    """The arms to train: one of those with the same backbone."""
    arch = {key: tuple(values) for key, values in load_config(CONFIG).model.backbone.arch.items()}
    return list(dict.fromkeys(trained_as(name, arch, study.size) for name in arms))


def run_job(study: Study, job: Job, only_kept: bool = False) -> Result | None:
    """Do a job, or give its kept result; None if there is none, with ``only_kept``."""
    return (train if job.kind == 'train' else change_windows)(study, job.name, job.seed, only_kept)


def run_study(
    study: Study,
    jobs: Sequence[Job],
    arms: Sequence[str],
    processes: int = 2,
    threads: int = 1,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Do all jobs that have no kept result, then measure the arms; what an earlier call has done is kept.

    Args:
        study: What is done alike for all arms.
        jobs: Of :func:`all_jobs`.
        arms: To measure, see :func:`distinct_arms`; none are measured if empty.
        processes: Trainings at a time; 1 trains in this process.
        threads: Of torch, in each process.
        report: Called with iterations done and iterations in all; every two seconds with several processes.
    """
    prepare(study)
    left = [job for job in jobs if run_job(study, job, only_kept=True) is None]
    total = sum(_iterations(study, job) for job in left)
    report(0, total)
    for kind in ('train', 'change'):
        group = [job for job in left if job.kind == kind]
        before = 0 if kind == 'train' else sum(_iterations(study, job) for job in left if job.kind == 'train')
        if processes == 1:
            _start_process(threads)
            for i, job in enumerate(group):
                run_job(study, job)
                report(before + sum(_iterations(study, done) for done in group[: i + 1]), total)
        elif group:
            _run_together(study, group, processes, threads, partial(_report_from, before, total, report))
    if arms:
        _start_process(threads)
        measure_arms(study, arms)


def _report_from(before: int, total: int, report: Callable[[int, int], None], done: int) -> None:
    report(before + done, total)


def _run_together(
    study: Study, jobs: Sequence[Job], processes: int, threads: int, report: Callable[[int], None]
) -> None:
    context = multiprocessing.get_context('spawn')
    folders = [_work_dir(study, job) for job in jobs]
    with ProcessPoolExecutor(processes, context, _start_process, (threads,)) as pool:
        futures = [pool.submit(run_job, study, job) for job in jobs]
        try:
            pending = set(futures)
            while pending:
                done, pending = wait(pending, timeout=2, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                report(sum(
                    _iterations(study, job) if future.done() else _count_iterations(folder)
                    for job, future, folder in zip(jobs, futures, folders)
                ))  # fmt: skip
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():  # else they would train to their end
                process.terminate()
            raise


def _start_process(threads: int) -> None:
    """Load what the jobs need, in a process of its own or in this one."""
    from .. import registration  # noqa: F401  # registers the backbones
    from . import local_attention  # noqa: F401

    torch.set_num_threads(threads)


def _iterations(study: Study, job: Job) -> int:
    return study.iterations if job.kind == 'train' else study.finetuning


def _work_dir(study: Study, job: Job) -> Path:
    cfg = (config_of if job.kind == 'train' else config_of_change)(study, job.name, job.seed)
    return Path(cfg.work_dir)


def _count_iterations(work_dir: Path) -> int:
    """Iterations of a training until now."""
    return max((record['step'] for record in read_scalars(work_dir) if 'loss' in record), default=0)
