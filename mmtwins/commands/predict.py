"""Predict on images and videos with a trained model; write overlays and results in ADE20K's and COCO's formats, or classes."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.arguments import add_checkpoint, add_config_with_options, add_device, readable_errors
from .bars import new_bar
from .parsing import parse, refuse, register

if TYPE_CHECKING:
    from mmengine.config import Config

    from ..inference.predictor import Predictor
    from ..inference.writers import ResultWriter

EXAMPLE = 'mmtwins predict upernet_twins-svt-s_8xb2-160k_ade20k-512x512 iter_160000.pth a.jpg photos --out predicted'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mmtwins predict``."""
    add_config_with_options(parser)
    add_checkpoint(parser)
    parser.add_argument(
        'input',
        nargs='+',
        help='images, folders (with all folders in them), glob patterns in quotes, and videos; results keep their folders',
    )
    add_device(parser)
    parser.add_argument('--out', required=True, help='folder to write into; files of the same name are replaced')
    parser.add_argument('--batch-size', type=int, default=1, help='images at a time (default: %(default)s)')
    parser.add_argument(
        '--score-thr',
        type=float,
        help='leave out instances with a lower score, 0 to 1, in pictures and JSON; detectors only (default: 0.3)',
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``mmtwins predict ARGV``."""
    args = parse(__name__, argv)
    if args.batch_size < 1:
        refuse(__name__, f'--batch-size {args.batch_size}: give at least 1 image')
    register()
    import cv2

    from ..engine.config import load_config
    from ..inference.predictor import Predictor
    from ..inference.sources import find_all
    from ..inference.writers import ResultWriter

    # OpenCV stays silent about files that cannot be read: we print a line for each.
    set_log_level = cv2.setLogLevel if hasattr(cv2, 'setLogLevel') else cv2.utils.logging.setLogLevel  # of OpenCV 4, 5
    set_log_level(0)
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
    with readable_errors():
        if Path(args.out).exists() and not Path(args.out).is_dir():
            raise ValueError(f'--out {args.out} is a file: name a folder')
        sources = find_all(args.input, args.out)
        cfg = load_config(args.config, args.cfg_options)
        if cfg.get('default_scope') == 'mmpretrain':
            _classify(args, cfg, sources)
            return
        thr = {} if args.score_thr is None else {'score_thr': args.score_thr}
        predictor = Predictor(args.config, args.checkpoint, args.device, cfg_options=args.cfg_options, **thr)
        if thr and not predictor.is_detector:
            print('note: --score-thr is for detectors, a segmentation has no scores', file=sys.stderr)
        root = args.input[0] if len(args.input) == 1 and os.path.isdir(args.input[0]) else None
        writer = ResultWriter(args.out, sources, predictor.info, predictor.is_detector, root)
        for note in writer.notes:
            print(f'note: {note}', file=sys.stderr)
        try:
            results, skipped = _run(predictor, sources, writer, args.batch_size)
        except KeyboardInterrupt:
            print(f'stopped; what was predicted until then is in {args.out}', file=sys.stderr)
            sys.exit(130)
    _conclude(args, results, skipped)


def _conclude(args: argparse.Namespace, results: int, skipped: int) -> None:
    print(f'{results} predicted, {skipped} skipped; results are in {args.out}')
    if not results:
        sys.exit(f'error: nothing in {" ".join(args.input)} could be read')


def _readable(line: str) -> str:
    """A line with names of files, which need not be UTF-8."""
    return os.fsencode(line).decode(errors='replace')


def _classify(args: argparse.Namespace, cfg: 'Config', sources: list[str]) -> None:
    """Print the class of each image and its score, and write them to ``predictions.json``."""
    from ..inference.classifying import Classifier

    skipped: list[str] = []

    def skip(name: str, reason: str) -> None:
        skipped.append(name)
        print(_readable(f'skipped {name}: {reason}'), file=sys.stderr)

    found = []
    for one in Classifier(cfg, args.checkpoint, args.device)(sources, args.batch_size, skip):
        print(_readable(f'{one.path}: {one.name} ({one.score:.3f})'))
        found.append(asdict(one))
    Path(args.out).mkdir(parents=True, exist_ok=True)
    (Path(args.out) / 'predictions.json').write_text(json.dumps(found, indent=2) + '\n')
    _conclude(args, len(found), len(skipped))


def _run(predictor: 'Predictor', sources: list[str], writer: 'ResultWriter', batch_size: int) -> tuple[int, int]:
    """Predict and write under a progress bar; returns how many images and frames have results, and how many were skipped."""
    from ..inference.sources import count_frames, is_video

    done, skipped = 0, 0
    with new_bar('predicting') as progress, writer:
        frames = {path: max(1, count_frames(path)) for path in sources if is_video(path)}
        task = progress.add_task('', total=sum(frames.get(path, 1) for path in sources))

        def skip(name: str, reason: str) -> None:
            nonlocal skipped
            skipped += 1
            line = _readable(f'skipped {name}: {reason}')
            progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
            progress.advance(task)

        for result in predictor(sources, batch_size, skip):
            writer.add(result)
            done += 1
            progress.advance(task)
        progress.update(task, total=done + skipped, completed=done + skipped)
    return done, skipped
