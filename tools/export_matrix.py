"""Export all architectures to all runtimes, compare results and time with PyTorch, and write docs/export.md."""

import argparse
import json
from pathlib import Path

from mmtwins import registration  # noqa: F401, which registers the backbones
from mmtwins.commands.bars import stepping
from mmtwins.engine.arguments import image_size, readable_errors
from mmtwins.engine.config import load_config
from mmtwins.export import FORMATS
from mmtwins.export.accuracy import CALIBRATION, measure_accuracy
from mmtwins.export.matrix import ARCHS, MODELS, all_cells, sweep
from mmtwins.export.matrix_page import int8_section, matrix_section
from mmtwins.markdown import update_section

TOY = 'upernet_twins-svt-toy_1xb8-1600iters_toy-ade-128x128'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--results',
        default='work_dirs/export_matrix',
        metavar='FOLDER',
        help='folder for results, a JSON file for each cell; those that exist are kept (default: %(default)s)',
    )
    parser.add_argument('--archs', nargs='+', choices=ARCHS, default=ARCHS, help='architectures (default: all)')
    parser.add_argument('--models', nargs='+', choices=MODELS, default=tuple(MODELS), help='models (default: all)')
    parser.add_argument('--formats', nargs='+', choices=FORMATS, default=tuple(FORMATS), help='formats (default: all)')
    parser.add_argument('--again', action='store_true', help='measure again what failed')
    parser.add_argument(
        '--kept', action='store_true', help='measure nothing: write the page from the results that exist'
    )
    parser.add_argument(
        '--toy',
        metavar='CHECKPOINT',
        help='toy segmentor of `make demo`, work_dirs/demo/segmentation/iter_1600.pth, for the accuracy in int8 '
        '(default: not measured)',
    )
    parser.add_argument('--data-root', default='data/toy/ade', help='data of the toy segmentor (default: %(default)s)')
    parser.add_argument(
        '--toy-size', type=image_size, default='128x128', help='size of its images (default: %(default)s)'
    )
    parser.add_argument(
        '--page', default='docs/export.md', metavar='FILE', help='page to update (default: %(default)s)'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with readable_errors():
        cells = all_cells(args.archs, args.models, args.formats)
        with stepping('exporting', len(cells)) as step:
            for result in sweep(Path(args.results), cells, args.again, args.kept):
                print(*(result[key] for key in ('arch', 'model', 'format', 'state', 'reason')), flush=True)
                step()
        results = [*sweep(Path(args.results), all_cells(), kept=True)]
        if results:
            update_section(args.page, 'matrix', matrix_section(results, 'python tools/export_matrix.py'))
        kept = Path(args.results, 'int8.json')
        if args.toy and not args.kept:
            cfg = load_config(TOY, dict(data_root=args.data_root))
            with stepping('evaluating', 3) as step:
                found = measure_accuracy(cfg, args.toy, *args.toy_size, step)
            kept.write_text(json.dumps(found, indent=2) + '\n')
        if kept.exists():
            command = 'python tools/export_matrix.py --toy work_dirs/demo/segmentation/iter_1600.pth'
            update_section(args.page, 'int8', int8_section(json.loads(kept.read_text()), command, CALIBRATION))


if __name__ == '__main__':
    main()
