"""The part of ``mmtwins benchmark`` that measures whole models, their settings and their data on real images."""

import argparse
import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from ..engine.arguments import readable_errors
from .bars import stepping

KINDS = ('whole', 'settings', 'pipeline')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for whole models to a parser."""
    group = parser.add_argument_group('whole models, with the images of a config')
    kinds = group.add_mutually_exclusive_group()
    kinds.add_argument(
        '--whole', action='store_true',
        help='time of whole iterations, with and without loading, and the share of the backbone; with --memory peak memory',
    )  # fmt: skip
    kinds.add_argument(
        '--settings', action='store_true',
        help='what settings such as channels-last heads and bf16 do to the time and the scores of the model',
    )  # fmt: skip
    kinds.add_argument(
        '--pipeline', action='store_true',
        help='images per second that the data pipeline gives, and the time of its transforms',
    )  # fmt: skip
    group.add_argument('--data-root', metavar='FOLDER', help="folder of the data (default: the config's)")
    group.add_argument(
        '--workers', type=int, nargs='+', metavar='N',
        help='processes that load images; several are for --pipeline (default: 1, with --pipeline 0 1 2)',
    )  # fmt: skip
    group.add_argument(
        '--samples', type=int, default=100, metavar='N',
        help='images to load for each number of workers, with --pipeline (default: %(default)s)',
    )  # fmt: skip
    group.add_argument(
        '--kept', action='store_true', help='measure nothing: make the tables from the results that are in --out'
    )


def kind_of(args: argparse.Namespace) -> str | None:
    """What is measured of a whole model; None if something else is."""
    return next((kind for kind in KINDS if getattr(args, kind)), None)


def find_fault(args: argparse.Namespace) -> str | None:
    """Say what is wrong with the arguments for whole models, and what to do; None if nothing is."""
    kind = kind_of(args)
    if kind is None:
        given = [f'--{name.replace("_", "-")}' for name in ('data_root', 'workers', 'kept') if getattr(args, name)]
        return f'{given[0]} goes with --whole, --settings or --pipeline' if given else None
    if not args.kept and args.config is None:
        return f'--{kind} needs a config with data: give the name of a recipe or a config file'
    if args.profile or args.grow or args.summary or (kind != 'whole' and (args.memory or args.no_time)):
        return f'--profile, --grow and --summary do not go with --{kind}; --memory and --no-time go with --whole alone'
    if kind == 'whole' and args.no_time and not args.memory and not args.kept:
        return '--whole --no-time measures nothing: add --memory'
    if kind == 'settings' and args.precision != ['fp32']:
        return '--settings compares with float32: leave --precision out'
    if args.samples < 1:
        return f'--samples {args.samples}: give at least 1'
    if args.workers and (min(args.workers) < 0 or (kind != 'pipeline' and len(args.workers) > 1)):
        return f'--workers {" ".join(map(str, args.workers))}: give one number, or several with --pipeline, from 0 on'
    return None


def show(args: argparse.Namespace, argv: Sequence[str]) -> None:
    """Measure, keep the results in ``--out``, and write the tables of all results that are there."""
    import torch

    from ..benchmark.machine import describe_machine
    from ..benchmark.whole_report import to_markdown
    from ..engine.checks import check_device
    from ..markdown import update_section

    if args.threads:
        torch.set_num_threads(args.threads)
    out, kind = Path(args.out), kind_of(args)
    assert kind is not None
    with readable_errors():
        check_device(args.device)
        if not args.kept:
            command = 'mmtwins benchmark ' + shlex.join(argv)
            common = dict(kind=kind, command=command, machine=describe_machine(args.device))
            out.mkdir(parents=True, exist_ok=True)
            measures = list(MEASURES[kind](args))
            with stepping('measuring', len(measures)) as step:
                for name, measure in measures:
                    _keep(out / f'{name}.json', {**common, **measure()})
                    step()
        results = [json.loads(path.read_text()) for path in sorted(out.glob(f'{kind}-*.json'))]
        if not results:
            raise ValueError(f'{out} has no results of --{kind}: measure first, without --kept')
        tables = to_markdown(results)
        (out / f'{kind}.md').write_text(tables)
        if args.update:
            update_section(args.update[0], args.update[1], tables)
    print(tables)
    print(f'written to {out}')


def _keep(path: Path, found: dict[str, Any]) -> None:
    """Write a result; time stays beside memory that is measured later, of the same task on the same machine."""
    found['commands'] = [found.pop('command')]
    known = json.loads(path.read_text()) if path.exists() else {}
    if all(known.get(name) == found[name] for name in ('kind', 'task', 'machine')) and not known.keys() <= found.keys():
        found['commands'] = [*dict.fromkeys(known['commands'] + found['commands'])]
        found = {**known, **found}
    path.write_text(json.dumps(found, indent=2) + '\n')


Measure = tuple[str, Callable[[], dict[str, Any]]]


def _tasks(args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """The name of a file and a task, for each combination of the arguments."""
    from ..benchmark.whole_models import WholeTask

    workers = args.workers[0] if args.workers else 1
    for precision, work, (height, width), batch in product(args.precision, args.work, args.size, args.batch):
        task = WholeTask(args.config, work, height, width, batch, precision, args.device, workers, args.data_root)
        yield f'{Path(args.config).stem}-{work}-{batch}x{height}x{width}-{precision}', task


def _whole(args: argparse.Namespace) -> Iterator[Measure]:
    from ..benchmark.peers import check_installed, installed_peers
    from ..benchmark.whole_models import memory_of_whole_model, time_whole_models

    check_installed(args.against or [])
    names = ['mmtwins', *(installed_peers() if args.against is None else args.against)]

    def measure(task: Any) -> dict[str, Any]:
        found: dict[str, Any] = dict(task=asdict(task))
        fitting = names
        if args.memory:
            found['memory'] = {name: memory_of_whole_model(task, name) for name in names}
            fitting = [name for name in names if found['memory'][name] is not None]
        if not args.no_time:
            timings = time_whole_models(task, fitting, args.rounds)
            found['timings'] = {name: asdict(timing) for name, timing in timings.items()}
        return found

    for name, task in _tasks(args):
        yield f'whole-{name}', partial(measure, task)


def _settings(args: argparse.Namespace) -> Iterator[Measure]:
    from ..benchmark.settings import measure_settings

    def measure(task: Any) -> dict[str, Any]:
        effects = measure_settings(task, args.rounds)
        return dict(task=asdict(task), effects={name: asdict(effect) for name, effect in effects.items()})

    for name, task in _tasks(args):
        yield f'settings-{name}', partial(measure, task)


def _pipeline(args: argparse.Namespace) -> Iterator[Measure]:
    from ..benchmark.data_pipelines import measure_pipeline

    workers = args.workers if args.workers else (0, 1, 2)

    def measure(work: str) -> dict[str, Any]:
        found = measure_pipeline(args.config, args.data_root, work, workers=workers, samples=args.samples)
        return dict(task=dict(config=args.config, work=work), **asdict(found))

    for work in args.work:
        yield f'pipeline-{Path(args.config).stem}-{work}', partial(measure, work)


MEASURES: dict[str, Callable[[argparse.Namespace], Iterator[Measure]]] = {
    'whole': _whole,
    'settings': _settings,
    'pipeline': _pipeline,
}
