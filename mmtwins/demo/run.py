"""The five steps of the demo: generate scenes, train a segmentor and a detector, evaluate them, draw pictures."""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from ..engine.scalars import read_scalars
from ..figures.curves import draw_training_curves
from ..figures.examples import choose_examples, draw_examples
from .data import generate_toy_data
from .figures import predict_examples
from .progress import Meter, readable_time
from .tasks import TASKS, TINY_DATA, DemoError, Settings
from .training import evaluate, train

STATE = 'demo.json'
NUM_EXAMPLES = 24  # held-out images among which those to draw are chosen


def run_demo(settings: Settings, console: Console, fresh: bool = False) -> None:
    """Run the demo, or what an earlier call with the same settings has left to do.

    Args:
        settings: Of the run.
        console: Where to show progress and results.
        fresh: Delete the results of an earlier run first.

    Raises:
        DemoError: A tool failed, another demo runs in the folder, or the folder holds something
            else.
        ValueError, OSError: The data cannot be generated.
    """
    work_dir = settings.work_dir
    if fresh and work_dir.exists() and not (work_dir / STATE).is_file():
        raise DemoError(f'--fresh: {work_dir} was not written by the demo, so it is not deleted')
    work_dir.mkdir(parents=True, exist_ok=True)
    with (work_dir / '.lock').open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DemoError(f'another demo is running in {work_dir}') from None
        if fresh:
            for path in work_dir.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != '.lock':
                    path.unlink()
        _run_steps(settings, console)


def _run_steps(settings: Settings, console: Console) -> None:
    """Do what is missing of the five steps, then show the results."""
    if set(' ,"\'[]()') & set(str(settings.data_root)):
        raise DemoError(f'--data-root {settings.data_root}: name a folder without spaces, commas, quotes and brackets')
    configs = [Config.fromfile(settings.root / 'configs/toy' / task.config).to_dict() for task in TASKS]
    version = hashlib.sha256(repr(configs).encode()).hexdigest()[:8]
    given = dict(seed=settings.seed, data_root=str(settings.data_root), tiny=settings.tiny, configs=version)
    state_file, results_file = settings.work_dir / STATE, settings.work_dir / 'results.json'
    state: dict[str, Any] = dict(settings=given, seconds={}, metrics={})
    if state_file.is_file():
        state = json.loads(state_file.read_text())

    def save() -> None:
        write_json(state_file, state)

    if state['settings'] != given:
        raise DemoError(
            f'{settings.work_dir} holds a run with {state["settings"]}, not {given}: '
            'name another --work-dir, or start over with --fresh'
        )
    if results_file.is_file():
        results = json.loads(results_file.read_text())
        if all(Path(path).exists() for path in results['paths'].values()):
            console.print(f'This run is complete already; --fresh starts over (or delete {settings.work_dir}).')
            show_results(console, results)
            return
    save()

    console.print('[bold]1/5 Generate the scenes[/] (about 15 s)', highlight=False)
    data = TINY_DATA if settings.tiny else {}
    with Meter(console, sum(data.values()) or 1150, 'scenes', seconds=15) as meter:
        generate_toy_data(settings.data_root, settings.seed, **data, progress=lambda done, total: meter.update(done))
    console.print(f'  {settings.data_root}', highlight=False)

    checkpoints = {}
    for number, task in enumerate(TASKS, 2):
        console.print(f'[bold]{number}/5 Train {task.title}[/] (about {task.minutes:g} min)', highlight=False)
        checkpoints[task.name] = train(task, settings, console, state, save)
    console.print('[bold]4/5 Evaluate on held-out images[/] (about 30 s)', highlight=False)
    for task in TASKS:
        if task.name not in state['metrics']:
            state['metrics'][task.name] = evaluate(task, settings, console, checkpoints[task.name])
            save()
    console.print('[bold]5/5 Draw the pictures[/] (about 15 s)', highlight=False)
    paths = _draw(settings, checkpoints)

    results = {
        task.name: dict(
            metrics=state['metrics'][task.name],
            training_seconds=round(state['seconds'].get(task.name, 0.0), 1),
            config=f'configs/toy/{task.config}',
        )
        for task in TASKS
    }
    paths.update({f'{name} checkpoint': str(path) for name, path in checkpoints.items()})
    paths['results'] = str(results_file)
    write_json(results_file, dict(results, settings=given, paths=paths))
    show_results(console, dict(results, paths=paths))


def _draw(settings: Settings, checkpoints: dict[str, Path]) -> dict[str, str]:
    """Draw predictions of both models, good and bad ones, and the training curves.

    Returns:
        Path by the name that the table shows.
    """
    paths = {}
    for task in TASKS:
        config = settings.root / 'configs/toy' / task.config
        options = dict(data_root=str(settings.data_root / task.data))
        # The libraries print how they load; nothing of it is for the reader of the demo.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            examples, classes, palette = predict_examples(
                config, checkpoints[task.name], NUM_EXAMPLES, cfg_options=options
            )
        chosen = choose_examples(examples, len(classes))
        paths[f'{task.name} pictures'] = draw_examples(chosen, classes, palette, settings.work_dir / f'{task.name}.png')
    runs = {task.title: read_scalars(settings.work_dir / task.name) for task in TASKS}
    labels = {task.title: {key: label for key, (label, _) in task.metrics.items()} for task in TASKS}
    paths['training curves'] = draw_training_curves(runs, labels, settings.work_dir / 'curves.png')
    return {name: str(path) for name, path in paths.items()}


def show_results(console: Console, results: dict) -> None:
    """Print the table of results and the paths."""
    table = Table(title='Held-out images; 1 is perfect')
    for column in ('model', 'metric'):
        table.add_column(column)
    for column in ('value', 'training time'):
        table.add_column(column, justify='right')
    for task in TASKS:
        result = results[task.name]
        for i, (label, value) in enumerate(result['metrics'].items()):
            head = (task.title, readable_time(result['training_seconds'])) if i == 0 else ('', '')
            table.add_row(head[0], label, f'{value:.3f}', head[1], end_section=i + 1 == len(result['metrics']))
    console.print(table)
    for name, path in results['paths'].items():
        console.print(f'{name:<24}{path}', highlight=False, soft_wrap=True)


def write_json(path: Path, content: dict) -> None:
    """Write a file at once, so that it is complete or not there."""
    partial = path.with_name(f'.{path.name}.partial')
    partial.write_text(json.dumps(content, indent=2) + '\n')
    os.replace(partial, path)
