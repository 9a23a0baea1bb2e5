"""Predict on images and videos with a trained model, and write overlays and results in ADE20K's and COCO's formats."""

import argparse
import os
import signal
import sys
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # Ctrl-C while the imports below take their time

import cv2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mmtwins.engine.arguments import checkpoint_argument, config_argument, device_argument, readable_errors
from mmtwins.inference.predictor import Predictor
from mmtwins.inference.sources import count_frames, find_sources, is_video, without_results
from mmtwins.inference.writers import ResultWriter


def parse_args() -> argparse.Namespace:
    parents = [config_argument(), checkpoint_argument(), device_argument()]
    parser = argparse.ArgumentParser(description=__doc__, parents=parents)
    parser.add_argument('input', help='an image, a folder with all folders in it, a glob pattern in quotes, or a video')
    parser.add_argument('--out', required=True, help='folder to write; what has the same name there is replaced')
    parser.add_argument('--batch-size', type=int, default=1, help='images at a time (default: %(default)s)')
    parser.add_argument(
        '--score-thr',
        type=float,
        help='leave out instances with a lower score, 0 to 1, in pictures and JSON (default: 0.3); detectors only',
    )
    args = parser.parse_args()
    if args.batch_size < 1:
        parser.error(f'--batch-size {args.batch_size}: give at least 1 image')
    return args


def main() -> None:
    args = parse_args()
    # What cannot be read gets our own line.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
    with readable_errors():
        if Path(args.out).exists() and not Path(args.out).is_dir():
            raise ValueError(f'--out {args.out} is a file: name a folder')
        sources = without_results(find_sources(args.input), args.input, args.out)
        thr = {} if args.score_thr is None else {'score_thr': args.score_thr}
        predictor = Predictor(args.config, args.checkpoint, args.device, cfg_options=args.cfg_options, **thr)
        if thr and not predictor.is_detector:
            print('note: --score-thr is for detectors, a segmentation has no scores', file=sys.stderr)
        root = args.input if os.path.isdir(args.input) else None
        writer = ResultWriter(args.out, sources, predictor.info, predictor.is_detector, root)
        for note in writer.notes:
            print(f'note: {note}', file=sys.stderr)
        try:
            results, skipped = _run(predictor, sources, writer, args.batch_size)
        except KeyboardInterrupt:
            print(f'stopped; what was predicted until then is in {args.out}', file=sys.stderr)
            sys.exit(130)
    print(f'{results} predicted, {skipped} skipped; results are in {args.out}')
    if not results:
        sys.exit(f'error: nothing in {args.input} could be read')


def _run(predictor: Predictor, sources: list[str], writer: ResultWriter, batch_size: int) -> tuple[int, int]:
    """Predict and write under a progress bar; how many images and frames have results, and how many lines say not."""
    done, skipped = 0, 0
    columns = (TextColumn('predicting'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn('left:'))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress, writer:
        frames = {path: max(1, count_frames(path)) for path in sources if is_video(path)}
        task = progress.add_task('', total=sum(frames.get(path, 1) for path in sources))

        def skip(name: str, reason: str) -> None:
            nonlocal skipped
            skipped += 1
            line = os.fsencode(f'skipped {name}: {reason}').decode(errors='replace')
            progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
            progress.advance(task)

        for result in predictor(sources, batch_size, skip):
            writer.add(result)
            done += 1
            progress.advance(task)
        progress.update(task, total=done + skipped, completed=done + skipped)
    return done, skipped


if __name__ == '__main__':
    main()
