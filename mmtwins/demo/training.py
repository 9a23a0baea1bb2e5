"""Train and evaluate the models of the demo; an interrupted training continues from its last checkpoint."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config
from rich.console import Console

from ..engine.scalars import read_scalars
from ..engine.work_dir import find_newest_checkpoint
from .processes import run_script
from .progress import Meter
from .tasks import DemoError, Settings, Task, options_of


def train(task: Task, settings: Settings, console: Console, state: dict, save: Callable[[], None]) -> Path:
    """Train a model, from its last checkpoint if there is one.

    Args:
        task: The model.
        settings: Of the run.
        console: Where to show progress.
        state: Its ``seconds`` by name of a task are kept up to date.
        save: Called after each change of the state.

    Returns:
        The final checkpoint.
    """
    config = settings.root / 'configs/toy' / task.config
    work_dir = settings.work_dir / task.name
    work_dir.mkdir(exist_ok=True)
    iterations = 8 if settings.tiny else Config.fromfile(config).train_cfg.max_iters
    newest = find_newest_checkpoint(work_dir).path
    done = int(Path(newest).stem.removeprefix('iter_')) if newest else 0
    final = work_dir / f'iter_{iterations}.pth'
    if done >= iterations:
        console.print('  already trained', highlight=False)
        return final
    if done:
        console.print(f'  continuing from iteration {done}', highlight=False)
    before, begun = state['seconds'].get(task.name, 0.0), time.monotonic()
    label = {key: name for key, (name, _) in task.metrics.items()}
    shown = next(iter(task.metrics))

    with Meter(console, iterations, 'iterations', 60 * task.minutes, done) as meter:

        def report() -> None:
            records = [record for record in read_scalars(work_dir) if record['step'] > done or shown in record]
            losses = [record for record in records if 'loss' in record]
            scores = [record[shown] * task.metrics[shown][1] for record in records if shown in record]
            note = f'loss {losses[-1]["loss"]:.2f}' if losses else ''
            note += f'   held-out {label[shown]} {scores[-1]:.2f}' if scores else ''
            meter.update(losses[-1]['step'] if losses else done, note)
            state['seconds'][task.name] = before + time.monotonic() - begun
            save()

        arguments = [str(config), '--work-dir', str(work_dir), '--resume', '--cfg-options', *options_of(task, settings)]
        run_script(settings.root / 'tools/train.py', arguments, settings.work_dir / f'{task.name}.log', report)
    if not final.is_file():
        raise DemoError(f'the training ended without {final}; see {settings.work_dir / task.name}.log')
    return final


def evaluate(task: Task, settings: Settings, console: Console, checkpoint: Path) -> dict[str, float]:
    """Evaluate a checkpoint on the held-out images.

    Args:
        task: The model.
        settings: Of the run.
        console: Where to say what happens.
        checkpoint: Its weights.

    Returns:
        Value in 0..1 by label.
    """
    folder = settings.work_dir / task.name / 'evaluation'
    config = settings.root / 'configs/toy' / task.config
    shutil.rmtree(folder, ignore_errors=True)
    arguments = [str(config), str(checkpoint), '--work-dir', str(folder), '--cfg-options', *options_of(task, settings)]
    console.print(f'  {task.title}: about 15 s', highlight=False)
    run_script(settings.root / 'tools/test.py', arguments, settings.work_dir / f'{task.name}.log')
    measured = json.loads(next(path for path in folder.glob('*/*.json') if path.stem == path.parent.name).read_text())
    return {label: round(measured[key] * factor, 4) for key, (label, factor) in task.metrics.items()}
