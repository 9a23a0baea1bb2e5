"""Train a small Twins with different windows and sub-samplings on generated maps, and write what was found into docs/gsa.md.

It takes about three hours on two cores. If it is interrupted, the same command continues from the last checkpoints.
"""

import argparse
import sys
from pathlib import Path

from mmtwins import registration  # noqa: F401, which registers the backbones
from mmtwins.commands.bars import new_bar
from mmtwins.engine.arguments import readable_errors
from mmtwins.study.arm_training import Study
from mmtwins.study.arms import ARMS
from mmtwins.study.jobs import all_jobs, distinct_arms, run_study
from mmtwins.study.study_page import draw_study, read_findings, study_section, write_page


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--seeds', type=int, nargs='+', default=[0, 1, 2], metavar='SEED', help='seeds of trainings (default: 0 1 2)'
    )
    parser.add_argument('--iterations', type=int, default=Study.iterations, help='of a training (default: %(default)s)')
    parser.add_argument('--only', nargs='+', choices=ARMS, default=list(ARMS), metavar='ARM',
                        help=f'arms to train, out of {", ".join(ARMS)} (default: all)')  # fmt: skip
    parser.add_argument('--jobs', type=int, default=2, help='trainings at a time (default: %(default)s)')
    parser.add_argument('--threads', type=int, default=1, help='CPU threads of each (default: %(default)s)')
    parser.add_argument(
        '--work-dir', type=Path, default=Path('work_dirs/study'), help='maps, logs, checkpoints (default: %(default)s)'
    )
    parser.add_argument(
        '--results', type=Path, default=Path('docs/gsa/study'), help='folder of JSON files (default: %(default)s)'
    )
    parser.add_argument('--kept', action='store_true', help='train nothing: write the page from the results there are')
    parser.add_argument('--page', type=Path, default=Path('docs/gsa.md'), help='to update (default: %(default)s)')
    parser.add_argument('--tiny', action='store_true', help=argparse.SUPPRESS)  # seconds, which tests the tool itself
    args = parser.parse_args()
    for name in ('iterations', 'jobs', 'threads'):
        if getattr(args, name) < 1:
            parser.error(f'--{name} {getattr(args, name)}: give at least 1')
    if min(args.seeds) < 0:
        parser.error(f'--seeds {min(args.seeds)}: give numbers from 0 on')
    return args


def main() -> None:
    args = parse_args()
    options = {'train_dataloader.batch_size': 2}
    tiny = dict(size=64, num_train=4, num_val=2, finetuning=1, options=options) if args.tiny else {}
    study = Study(args.work_dir, args.results, args.iterations, **tiny)
    seeds = list(dict.fromkeys(args.seeds))
    with readable_errors():
        arms = distinct_arms(study, args.only)
        if not args.kept:
            with new_bar('training', disable=not sys.stderr.isatty()) as bar:
                task = bar.add_task('', total=None)
                jobs = all_jobs(study, args.only, seeds)
                run_study(study, jobs, arms, args.jobs, args.threads,
                          lambda done, total: bar.update(task, completed=done, total=total))  # fmt: skip
        findings = read_findings(study, args.only, seeds)
        if not findings.trained:
            raise ValueError(f'{args.results} has no results of {args.iterations} iterations: leave --kept out')
        folder = args.page.parent / 'gsa'
        draw_study(study, findings, folder)
        write_page(args.page, study_section(study, findings, 'python tools/study_gsa.py', 'gsa'))
        print(f'written to {args.page} and {folder}')


if __name__ == '__main__':
    main()
