"""Generate toy scenes, train UPerNet and Mask R-CNN with a small Twins-SVT on them, evaluate, and show the results.

Six to eight minutes on two CPU cores. Interrupted at any point, the same command continues from the last checkpoint.
"""

import argparse
import contextlib
import ctypes
import fcntl
import hashlib
import importlib.util
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from mmtwins.demo.data import generate_toy_data
from mmtwins.demo.figures import draw_examples, draw_training_curves, predict_examples, read_scalars

ROOT = Path(__file__).resolve().parent.parent
STATE = 'demo.json'
# Threads that spin for long while they wait take a busy machine's cores from those that work: up to seven times slower with
# two other processes on two cores. Not spinning at all halves the speed of an idle machine.
ENVIRONMENT = {'GOMP_SPINCOUNT': '10000', **os.environ, 'PYTHONUNBUFFERED': '1'}
LIBC = ctypes.CDLL(None) if sys.platform == 'linux' else None


@dataclass(frozen=True)
class Task:
    """A model to train: its config, and what of its evaluation to show (key: label, and factor to 0..1)."""

    name: str
    title: str
    config: str
    data: str
    minutes: float
    metrics: dict[str, tuple[str, float]]


TASKS = (
    Task(
        'segmentation',
        'UPerNet (semantic segmentation)',
        'upernet_twins-svt-toy_1xb8-1600iters_toy-ade-128x128.py',
        'ade',
        3,
        {'mIoU': ('mIoU', 0.01), 'mAcc': ('mAcc', 0.01), 'aAcc': ('aAcc', 0.01)},
    ),
    Task(
        'detection',
        'Mask R-CNN (instance segmentation)',
        'mask-rcnn_twins-svt-toy_fpn_1xb8-600iters_toy-coco.py',
        'coco',
        2.5,
        {
            'coco/segm_mAP_50': ('mask AP50', 1),
            'coco/segm_mAP': ('mask AP', 1),
            'coco/bbox_mAP_50': ('box AP50', 1),
            'coco/bbox_mAP': ('box AP', 1),
        },
    ),
)
# A run of seconds that tests the demo itself.
TINY_DATA = dict(num_train=16, num_val=6)
TINY_OPTIONS = (
    'train_cfg.max_iters=8',
    'train_cfg.val_interval=4',
    'default_hooks.checkpoint.interval=2',
    'default_hooks.logger.interval=1',
    'train_dataloader.batch_size=2',
)


class DemoError(Exception):
    """What the user is told when the demo cannot go on."""


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'), help='results (default: %(default)s)')
    parser.add_argument('--data-root', type=Path, default=Path('data/toy'), help='scenes (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='of the scenes and of the training (default: %(default)s)')
    parser.add_argument('--fresh', action='store_true', help='delete the results of an earlier run and start over')
    parser.add_argument('--tiny', action='store_true', help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def check_installation() -> None:
    """Find out now, rather than after minutes of training, what is not installed.

    Raises:
        DemoError: A package is missing.
    """
    packages = ('cv2', 'matplotlib', 'mmcv', 'mmdet', 'mmseg', 'pycocotools')
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise DemoError(f'{", ".join(missing)} cannot be imported: `make demo` in a checkout sets everything up')


class Meter:
    """Progress with time left: a bar in a terminal, a line every ten seconds elsewhere.

    Args:
        console: Where to show it.
        total: Units in all.
        unit: Their name.
        seconds: Expected time of all units, shown until the speed is known.
        done: Units that were done before.
    """

    def __init__(self, console: Console, total: int, unit: str, seconds: float, done: int = 0) -> None:
        self.console, self.total, self.unit, self.seconds = console, total, unit, seconds
        self.first, self.started, self.printed, self.complete = done, None, time.monotonic(), False
        columns = (TextColumn('  '), BarColumn(40), TextColumn('{task.description}'))
        self.bar = Progress(*columns, console=console, transient=True) if console.is_terminal else None

    def __enter__(self) -> 'Meter':
        if self.bar:
            self.bar.start()
            self.task = self.bar.add_task('starting', total=self.total, completed=self.first)
        return self

    def __exit__(self, *error) -> None:
        if self.bar:
            self.bar.stop()

    def update(self, done: int, note: str = '') -> None:
        """Show that ``done`` units are done; the time left follows from the speed since the first one."""
        now = time.monotonic()
        if done > self.first and self.started is None:
            # Before the first report the program loads; that time says nothing about the speed.
            self.started, self.first = now, done
        if done > self.first:
            seconds = (now - self.started) / (done - self.first) * (self.total - done)
            left = readable_time(seconds)
        else:
            left = f'about {readable_time(self.seconds * (1 - done / self.total))}'
        text = f'{done}/{self.total} {self.unit}, {left} left' + (f'   {note}' if note else '')
        if self.bar:
            self.bar.update(self.task, completed=done, description=text)
        elif now - self.printed >= 10 or (done == self.total and not self.complete):
            self.printed, self.complete = now, done == self.total
            self.console.print(f'  {text}', highlight=False)


def readable_time(seconds: float) -> str:
    return f'{seconds:.0f} s' if seconds < 90 else f'{seconds // 60:.0f} min {seconds % 60:.0f} s'


def write_json(path: Path, content: dict) -> None:
    """Write a file at once, so that it is complete or not there."""
    partial = path.with_name(f'.{path.name}.partial')
    partial.write_text(json.dumps(content, indent=2) + '\n')
    os.replace(partial, path)


@contextlib.contextmanager
def child_process(command: list[str], log: Path) -> Iterator[subprocess.Popen]:
    """Run a command with its output in a log file; it ends with this process, however that ends."""
    parent = os.getpid()

    def end_with_parent() -> None:
        LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)

    with log.open('ab') as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
            start_new_session=True,
            preexec_fn=end_with_parent if LIBC else None,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def run_tool(name: str, arguments: list[str], log: Path, report: Callable[[], None]) -> None:
    """Run a script of tools/, calling ``report`` twice a second.

    Raises:
        DemoError: The script failed.
    """
    with child_process([sys.executable, str(ROOT / 'tools' / name), *arguments], log) as process:
        while process.poll() is None:
            report()
            time.sleep(0.5)
        report()
    if process.returncode:
        tail = '\n'.join(log.read_text(errors='replace').splitlines()[-8:])
        raise DemoError(f'tools/{name} ended with exit code {process.returncode}; the end of {log}:\n{tail}')


def repair_last_checkpoint(work_dir: Path) -> int:
    """Make MMEngine's ``last_checkpoint`` name the newest complete checkpoint, whatever a killed run left behind.

    Returns:
        The iteration to continue from, 0 without a checkpoint.
    """
    checkpoints = sorted(work_dir.glob('iter_*.pth'), key=iteration_of, reverse=True)
    complete = next((path for path in checkpoints if zipfile.is_zipfile(path)), None)
    pointer = work_dir / 'last_checkpoint'
    if complete is None:
        pointer.unlink(missing_ok=True)
        return 0
    pointer.write_text(str(complete.resolve()))
    return iteration_of(complete)


def iteration_of(checkpoint: Path) -> int:
    return int(checkpoint.stem.removeprefix('iter_'))


def options_of(task: Task, args: argparse.Namespace) -> list[str]:
    """The ``--cfg-options`` of train.py and test.py."""
    tiny = TINY_OPTIONS if args.tiny else ()
    return [f'data_root={args.data_root / task.data}', f'randomness.seed={args.seed}', *tiny]


def train(task: Task, args: argparse.Namespace, console: Console, state: dict) -> Path:
    """Train a model, or what is missing of its training.

    Returns:
        The final checkpoint.
    """
    config = ROOT / 'configs/toy' / task.config
    work_dir = args.work_dir / task.name
    work_dir.mkdir(exist_ok=True)
    iterations = 8 if args.tiny else Config.fromfile(config).train_cfg.max_iters
    done = repair_last_checkpoint(work_dir)
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
            write_json(args.work_dir / STATE, state)

        arguments = [str(config), '--work-dir', str(work_dir), '--resume', '--cfg-options', *options_of(task, args)]
        run_tool('train.py', arguments, args.work_dir / f'{task.name}.log', report)
    if not final.is_file():
        raise DemoError(f'the training ended without {final}; see {args.work_dir / task.name}.log')
    return final


def evaluate(task: Task, args: argparse.Namespace, console: Console, checkpoint: Path) -> dict[str, float]:
    """Evaluate a checkpoint on the held-out images.

    Returns:
        Value in 0..1 by label.
    """
    folder = args.work_dir / task.name / 'evaluation'
    config = ROOT / 'configs/toy' / task.config
    shutil.rmtree(folder, ignore_errors=True)
    arguments = [str(config), str(checkpoint), '--work-dir', str(folder), '--cfg-options', *options_of(task, args)]
    console.print(f'  {task.title}: about 15 s', highlight=False)
    run_tool('test.py', arguments, args.work_dir / f'{task.name}.log', lambda: None)
    measured = json.loads(next(path for path in folder.glob('*/*.json') if path.stem == path.parent.name).read_text())
    return {label: round(measured[key] * factor, 4) for key, (label, factor) in task.metrics.items()}


def show_results(console: Console, results: dict) -> None:
    """Print the table of results and the paths."""
    table = Table(title='Held-out images; 1 is perfect')
    for column, justify in (('model', 'left'), ('metric', 'left'), ('value', 'right'), ('training time', 'right')):
        table.add_column(column, justify=justify)
    for task in TASKS:
        result = results[task.name]
        for i, (label, value) in enumerate(result['metrics'].items()):
            head = (task.title, readable_time(result['training_seconds'])) if i == 0 else ('', '')
            table.add_row(head[0], label, f'{value:.3f}', head[1], end_section=i + 1 == len(result['metrics']))
    console.print(table)
    for name, path in results['paths'].items():
        console.print(f'{name:<24}{path}', highlight=False, soft_wrap=True)


def run(args: argparse.Namespace, console: Console) -> None:
    """Do what is missing of the five steps, then show the results."""
    if set(' ,"\'[]()') & set(str(args.data_root)):
        raise DemoError(f'--data-root {args.data_root}: name a folder without spaces, commas, quotes and brackets')
    configs = [Config.fromfile(ROOT / 'configs/toy' / task.config).pretty_text for task in TASKS]
    version = hashlib.sha256('\n'.join(configs).encode()).hexdigest()[:8]
    settings = dict(seed=args.seed, data_root=str(args.data_root), tiny=args.tiny, configs=version)
    state_file, results_file = args.work_dir / STATE, args.work_dir / 'results.json'
    state = (
        json.loads(state_file.read_text()) if state_file.is_file() else dict(settings=settings, seconds={}, metrics={})
    )
    if state['settings'] != settings:
        raise DemoError(
            f'{args.work_dir} holds a run with {state["settings"]}, not {settings}: '
            'name another --work-dir, or start over with --fresh'
        )
    if results_file.is_file():
        results = json.loads(results_file.read_text())
        if all(Path(path).exists() for path in results['paths'].values()):
            console.print(f'This run is complete already; --fresh starts over (or delete {args.work_dir}).')
            show_results(console, results)
            return
    write_json(state_file, state)

    console.print('[bold]1/5 Generate the scenes[/] (about 15 s)', highlight=False)
    data = TINY_DATA if args.tiny else {}
    with Meter(console, sum(data.values()) or 1150, 'scenes', seconds=15) as meter:
        generate_toy_data(args.data_root, args.seed, **data, progress=lambda done, total: meter.update(done))
    console.print(f'  {args.data_root}', highlight=False)

    checkpoints = {}
    for number, task in enumerate(TASKS, 2):
        console.print(f'[bold]{number}/5 Train {task.title}[/] (about {task.minutes:g} min)', highlight=False)
        checkpoints[task.name] = train(task, args, console, state)
    console.print('[bold]4/5 Evaluate on held-out images[/] (about 30 s)', highlight=False)
    for task in TASKS:
        if task.name not in state['metrics']:
            state['metrics'][task.name] = evaluate(task, args, console, checkpoints[task.name])
            write_json(state_file, state)
    console.print('[bold]5/5 Draw the pictures[/] (about 15 s)', highlight=False)
    paths = draw(args, checkpoints)

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
    write_json(results_file, dict(results, settings=settings, paths=paths))
    show_results(console, dict(results, paths=paths))


def draw(args: argparse.Namespace, checkpoints: dict[str, Path]) -> dict[str, str]:
    """Draw predictions of both models on the first held-out images, and the training curves.

    Returns:
        Path by the name that the table shows.
    """
    paths = {}
    for task in TASKS:
        config = ROOT / 'configs/toy' / task.config
        options = dict(data_root=str(args.data_root / task.data))
        # The libraries print how they load; nothing of it is for the reader of the demo.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            drawing = predict_examples(config, checkpoints[task.name], range(4), cfg_options=options)
        paths[f'{task.name} pictures'] = draw_examples(*drawing, args.work_dir / f'{task.name}.png')
    runs = {task.title: read_scalars(args.work_dir / task.name) for task in TASKS}
    labels = {task.title: {key: label for key, (label, _) in task.metrics.items()} for task in TASKS}
    paths['training curves'] = draw_training_curves(runs, labels, args.work_dir / 'curves.png')
    return {name: str(path) for name, path in paths.items()}


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 110)

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup asks to go on without the terminal
            signal.signal(number, stop)
    try:
        check_installation()
        if args.fresh and args.work_dir.exists() and not (args.work_dir / STATE).is_file():
            raise DemoError(f'--fresh: {args.work_dir} was not written by the demo, so it is not deleted')
        args.work_dir.mkdir(parents=True, exist_ok=True)
        with (args.work_dir / '.lock').open('w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise DemoError(f'another demo is running in {args.work_dir}') from None
            if args.fresh:
                for path in args.work_dir.iterdir():
                    if path.is_dir():
                        shutil.rmtree(path)
                    elif path.name != '.lock':
                        path.unlink()
            run(args, console)
    except (DemoError, ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nStopped. The same command continues from the last checkpoint.', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
