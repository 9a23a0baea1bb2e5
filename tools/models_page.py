"""Try Twins in one config of every folder of MMSegmentation and MMDetection, and write docs/models.md."""

import argparse
from pathlib import Path

from mmtwins import registration  # noqa: F401, which registers the backbones
from mmtwins.engine.arguments import readable_errors
from mmtwins.swapping.catalogue import models_page
from mmtwins.swapping.stages import ARCHS
from mmtwins.swapping.sweep import sweep


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--arch', choices=ARCHS, default='svt-s', help='Twins backbone (default: %(default)s)')
    parser.add_argument(
        '--results',
        default='work_dirs/models_page',
        metavar='FOLDER',
        help='folder for results, a JSON file for each folder of configs; those that exist are kept (default: %(default)s)',
    )
    parser.add_argument('--again', action='store_true', help='try again the folders that failed')
    parser.add_argument('--kept', action='store_true', help='try nothing: write the page from the results that exist')
    parser.add_argument('--out', default='docs/models.md', metavar='FILE', help='page to write (default: %(default)s)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    results = []
    with readable_errors():
        for result in sweep(Path(args.results), args.arch, args.again, args.kept):
            results.append(result)
            print(
                f'{result["library"]} {result["folder"]}: {result["state"]} {result.get("reason", "")[:120]}',
                flush=True,
            )
        Path(args.out).write_text(models_page(results, args.arch, 'tools/models_page.py'), encoding='utf-8')


if __name__ == '__main__':
    main()
