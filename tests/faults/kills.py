"""Kill short trainings at random moments, and count what is lost.

    python tests/faults/kills.py --kills 200 --inside 50

A training keeps one checkpoint, and everything that it does to the disk is slow. It is killed (kill -9) at a random
moment, or while it writes a checkpoint; it resumes; and so on to its end. Its weights and its optimizer are then compared
with those of a training that nobody killed.
"""

import argparse
import os
import random
import signal
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tiny_training import (
    INTERVAL,
    ITERATIONS,
    count_differences,
    finish,
    iterations_done,
    make_config,
    progress,
    slow_down,
    start,
    train,
)

from mmtwins.engine.work_dir import find_newest_checkpoint

SLOWNESS = 0.001  # seconds for each access to the disk


@dataclass
class Result:
    """What came of it.

    Args:
        kills: Processes that were killed.
        inside: Those of them that were writing a checkpoint.
        runs: Trainings that were completed.
        lost: Kills after which more than one checkpoint interval was gone, or a checkpoint was not whole.
        differing: Tensors that differ from those of the training that nobody killed, over all runs.
    """

    kills: int = 0
    inside: int = 0
    runs: int = 0
    lost: int = 0
    differing: int = 0


def kill_trainings(folder: Path, kills: int, inside: int, seed: int = 0, **options: Any) -> Result:
    """Run trainings and kill them.

    Args:
        folder: Empty, for their work directories.
        kills: How many kills at least.
        inside: How many of them at least while a checkpoint is written.
        seed: Of the moments.
        options: Of the config, by dotted name.

    Returns:
        The counts.
    """
    rng, result, log = random.Random(seed), Result(), folder / 'log.txt'
    reference = folder / 'reference'
    begun = time.monotonic()
    assert finish(start(partial(_train, reference, options), log)) == 0, log.read_text()[-3000:]
    duration = time.monotonic() - begun
    while result.kills < kills or result.inside < inside:
        work_dir = folder / str(result.runs)
        done = 0
        while done < ITERATIONS:
            progress[:] = bytes(4)  # for one that is killed before it does so itself
            process = start(partial(_train, work_dir, options), log)
            if result.kills < kills or result.inside < inside:
                # Inside the writing as often as still needed.
                needed, left = inside - result.inside, max(kills - result.kills, 1)
                if rng.random() < needed / left:
                    _wait_for_writing(work_dir, process)
                    time.sleep(rng.uniform(0, 30 * SLOWNESS))
                else:
                    time.sleep(rng.uniform(0, duration / 2))
                _kill(process, work_dir, log, result)
            else:
                assert finish(process) == 0, log.read_text()[-3000:]
            done = _check(work_dir, done, result)
        result.differing += count_differences(work_dir / f'iter_{ITERATIONS}.pth', reference / f'iter_{ITERATIONS}.pth')
        result.runs += 1
    return result


def _train(work_dir: Path, options: dict[str, Any]) -> None:
    slow_down(SLOWNESS)
    train(make_config(work_dir, **options))


def _wait_for_writing(work_dir: Path, process: int) -> None:
    while not list(work_dir.glob('.*.partial')) and not os.waitid(
        os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT
    ):
        time.sleep(0.0005)


def _kill(process: int, work_dir: Path, log: Path, result: Result) -> None:
    """Kill a training and count it, unless it has come to its end."""
    os.killpg(process, signal.SIGKILL)
    code = finish(process)
    assert code in (0, -signal.SIGKILL), log.read_text()[-3000:]
    if code == 0:
        return
    result.kills += 1
    written = sorted(work_dir.glob('iter_*.pth'))
    pointer = work_dir / 'last_checkpoint'
    is_pointed_at = pointer.is_file() and written and pointer.read_text() == str(written[-1])
    if list(work_dir.glob('.*.partial')) or len(written) > 1 or (written and not is_pointed_at):
        result.inside += 1


def _check(work_dir: Path, before: int, result: Result) -> int:
    """Look at what a kill has left.

    Returns:
        The iteration to continue from.
    """
    newest = find_newest_checkpoint(work_dir)
    done = int(Path(newest.path).stem.removeprefix('iter_')) if newest.path else 0
    seen = iterations_done()
    if newest.notes or done < before or seen - done > INTERVAL:
        print(f'lost: {newest}, {before} iterations before, {seen} done')
        result.lost += 1
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=200, help='how many (default: %(default)s)')
    parser.add_argument('--inside', type=int, default=50, help='of them inside the writing (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    args = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result = kill_trainings(Path(folder), args.kills, args.inside, args.seed)
    print(
        f'{result.kills} kills, {result.inside} of them inside the writing of a checkpoint, in {result.runs} trainings: '
        f'{result.lost} lost more than a checkpoint interval, {result.differing} tensors differ '
        f'({time.monotonic() - begun:.0f} s)'
    )
    raise SystemExit(bool(result.lost or result.differing))


if __name__ == '__main__':
    main()
