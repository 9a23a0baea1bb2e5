"""Evaluate a checkpoint with the config's metrics; the config's default_scope decides which library builds it."""

import argparse
from pathlib import Path

from mmtwins.engine.launch import (
    add_arguments,
    build_runner,
    check_checkpoints,
    check_data,
    config_from,
    readable_errors,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', help='predictions: a folder of PNG (segmentation) or a .pkl file (detection)')
    parser.add_argument('--show', action='store_true', help='show painted predictions in a window')
    parser.add_argument('--show-dir', help='folder for painted predictions')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds that a window stays open')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation, as the config defines it')
    add_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with readable_errors():
        cfg = config_from(args)
        cfg.load_from = args.checkpoint
        cfg.resume = False
        is_detection = cfg.get('default_scope') == 'mmdet'
        if args.show or args.show_dir:
            if 'visualization' not in cfg.default_hooks:
                raise ValueError(f'--show, --show-dir: {args.config} has no visualization hook in default_hooks')
            cfg.default_hooks.visualization.update(draw=True, interval=1, show=args.show, wait_time=args.wait_time)
            if args.show_dir and is_detection:
                cfg.default_hooks.visualization.test_out_dir = str(Path(args.show_dir).resolve())
            elif args.show_dir:
                cfg.visualizer.save_dir = args.show_dir
        if args.tta:
            if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
                raise ValueError(
                    f'--tta: {args.config} has no tta_model and tta_pipeline (MMDetection 3.3 has none for masks)'
                )
            dataset = cfg.test_dataloader.dataset
            while 'dataset' in dataset:
                dataset = dataset.dataset
            dataset.pipeline = cfg.tta_pipeline
            cfg.model = {**cfg.tta_model, 'module': cfg.model}
        if args.out:
            metrics = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
            if not is_detection:
                metrics[0].update(output_dir=args.out, keep_results=True)
            elif args.out.endswith(('.pkl', '.pickle')):
                cfg.test_evaluator = [*metrics, dict(type='DumpDetResults', out_file_path=args.out)]
            else:
                raise ValueError(f'--out {args.out}: predictions of a detector go into a .pkl file')
        check_data(cfg, 'test')
        runner = build_runner(cfg, check_checkpoints(cfg, for_training=False))
    runner.test()


if __name__ == '__main__':
    main()
