"""What an evaluation does besides computing metrics, as changes to its config."""

from pathlib import Path

from mmengine.config import Config


def paint_predictions(cfg: Config, folder: str | None = None, wait_time: float | None = None) -> None:
    """Let an evaluation paint its predictions, in place.

    Args:
        cfg: The whole config.
        folder: Folder to write them to; None writes none.
        wait_time: Seconds to show each in a window; None shows none.

    Raises:
        ValueError: The config has no hook for it.
    """
    if 'visualization' not in cfg.default_hooks:
        raise ValueError(f'--show, --show-dir: {cfg.filename} has no visualization hook in default_hooks')
    hook = cfg.default_hooks.visualization
    if _is_classification(cfg):
        hook.update(enable=True, interval=1, show=wait_time is not None, out_dir=folder)
        if wait_time is not None:
            hook.wait_time = wait_time
        return
    hook.update(draw=True, interval=1, show=wait_time is not None)
    if wait_time is not None:
        hook.wait_time = wait_time
    if folder and _is_detection(cfg):
        hook.test_out_dir = str(Path(folder).resolve())
    elif folder:
        cfg.visualizer.save_dir = folder


def augment_at_test_time(cfg: Config) -> None:
    """Let an evaluation use ``tta_model`` and ``tta_pipeline`` of its config, in place.

    Raises:
        ValueError: The config has none.
    """
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise ValueError(
            f'--tta: {cfg.filename} has no tta_model and tta_pipeline (MMDetection 3.3 has none for masks)'
        )
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    dataset.pipeline = cfg.tta_pipeline
    cfg.model = {**cfg.tta_model, 'module': cfg.model}


def write_predictions(cfg: Config, out: str) -> None:
    """Let an evaluation write its predictions, in place.

    Args:
        cfg: The whole config.
        out: Folder of PNG files for a segmentation, a .pkl file for a detection or a classification.

    Raises:
        ValueError: Predictions of a detector or classifier go into a .pkl file.
    """
    metrics = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    if not _is_detection(cfg) and not _is_classification(cfg):
        metrics[0].update(output_dir=out, keep_results=True)
    elif out.endswith(('.pkl', '.pickle')):
        kind = 'DumpResults' if _is_classification(cfg) else 'DumpDetResults'
        cfg.test_evaluator = [*metrics, dict(type=kind, out_file_path=out)]
    else:
        owner = 'classifier' if _is_classification(cfg) else 'detector'
        raise ValueError(f'--out {out}: predictions of a {owner} go into a .pkl file')


def make_folder(out: str) -> None:
    """Make the folder that predictions go to, in every process; mmseg's metric makes it in the first one alone.

    Args:
        out: As for :func:`write_predictions`.

    Raises:
        OSError: It cannot be made.
    """
    (Path(out).parent if out.endswith(('.pkl', '.pickle')) else Path(out)).mkdir(parents=True, exist_ok=True)


def _is_detection(cfg: Config) -> bool:
    return cfg.get('default_scope') == 'mmdet'


def _is_classification(cfg: Config) -> bool:
    return cfg.get('default_scope') == 'mmpretrain'
