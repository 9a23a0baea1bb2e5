"""Predictions for images and videos: MMSegmentation's and MMDetection's own inferencers, fed file by file.

The inferencers build the model and its test pipeline, prepare, batch and predict. What is added: any public Twins
checkpoint, checked against the config as ``tools/test.py`` does; configs whose test pipeline loads annotations; files
that cannot be read are passed over; results come one by one while a folder or a video is worked through.
"""

import glob
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import CheckpointLoader
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from .checkpoint import unwrap
from .fitting import AUXILIARY_HEAD, check_heads, fit_model, has_one_backbone
from .launch import load_config
from .loading import naming_checkpoint, read_checkpoint
from .transforms import CheckImage

VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv')
NOT_NEEDED = (f'{AUXILIARY_HEAD}.', 'num_batches_tracked')  # for predictions; parts of names
Skip = Callable[[str, str], None]


@dataclass(frozen=True)
class DatasetInfo:
    """What a model's outputs mean.

    Attributes:
        classes: Name of each class, by index.
        palette: RGB colour in 0..255 of each class.
        reduce_zero_label: Whether label images have 0 = other and class i as i + 1, as ADE20K's.
        annotation_file: COCO annotation file of the config's test set, whether there or not; None without one.
    """

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    reduce_zero_label: bool = False
    annotation_file: Path | None = None


@dataclass(frozen=True, eq=False)
class Result:
    """The prediction for an image or for a frame of a video.

    Attributes:
        path: File, as it was named; None for an array.
        frame: Number of the frame in a video, from 1; None for an image.
        image: The image as predicted on, (H, W, 3) RGB uint8.
        sample: MMSegmentation's or MMDetection's data sample, on the CPU. A detector's has no instances with a lower score
            than was asked for; a segmentor's has no scores per class.
        info: Classes and colours.
    """

    path: str | None
    frame: int | None
    image: np.ndarray
    sample: BaseDataElement
    info: DatasetInfo

    @property
    def is_segmentation(self) -> bool:
        """Whether there is a label map; otherwise there are instances."""
        return 'pred_sem_seg' in self.sample

    @property
    def labels(self) -> np.ndarray:
        """Class indices: (H, W) of a segmentation, (N,) of a detection."""
        if self.is_segmentation:
            return self.sample.pred_sem_seg.data[0].numpy()
        return self.sample.pred_instances.labels.numpy()

    @property
    def scores(self) -> np.ndarray:
        """Scores of the instances in 0..1, (N,), highest first."""
        return self.sample.pred_instances.scores.numpy()

    @property
    def boxes(self) -> np.ndarray:
        """Boxes of the instances, (N, 4): left, top, right, bottom in pixels."""
        return self.sample.pred_instances.bboxes.numpy()

    @property
    def masks(self) -> np.ndarray | None:
        """Masks of the instances, (N, H, W) bool; None from a detector of boxes only."""
        masks = self.sample.pred_instances.get('masks')
        return None if masks is None else masks.numpy()

    def overlay(self, **options: Any) -> np.ndarray:
        """The prediction painted over the image, (H', W', 3) RGB uint8, see :func:`mmtwins.overlay.draw_overlay`."""
        from .overlay import draw_overlay

        return draw_overlay(self, **options)


def infer(
    config: str | Path,
    checkpoint: str | Path,
    images: str | Path | np.ndarray | Iterable[str | Path | np.ndarray],
    *,
    device: str | None = None,
    batch_size: int = 1,
    score_thr: float = 0.3,
    cfg_options: dict[str, Any] | None = None,
    on_skip: Skip | None = None,
) -> Iterator[Result]:
    """Predict on images with a trained model: ``for result in mmtwins.infer(config, checkpoint, 'photos'): ...``

    The arguments are checked and the model is loaded at once, the images when their results are asked for. For several
    calls with one model keep a :class:`Predictor`.

    Args:
        config: Config file of MMSegmentation or MMDetection.
        checkpoint: File, URL or ``hf-hub:`` reference of a model trained with it.
        images: An image, a folder with all folders in it, a glob pattern or a video; an array (H, W, 3) uint8 in BGR
            order, as OpenCV reads it; or several of these.
        device: Such as ``'cpu'`` or ``'cuda:0'``; None takes a GPU if there is one.
        batch_size: Images predicted on together. Only images that are equally large after preparation are, and so
            nothing is padded for it.
        score_thr: A detector's instances with a lower score are left out.
        cfg_options: Changes to the config, as ``--cfg-options`` of the tools.
        on_skip: Called with the name of what cannot be read or predicted on, and the reason; None warns.

    Returns:
        The results, in the order of the images; files of a folder or pattern by name.

    Raises:
        FileNotFoundError: The config, the checkpoint or ``images`` does not exist, or a folder is empty.
        ImportError: The config needs a library that is not installed.
        ValueError: The config or checkpoint is not fit for predictions, they do not fit each other, or an argument is out
            of range.
    """
    sources = find_sources(images)
    return Predictor(config, checkpoint, device, score_thr, cfg_options)(sources, batch_size, on_skip)


def find_sources(images: str | Path | np.ndarray | Iterable[str | Path | np.ndarray]) -> list[str | np.ndarray]:
    """Name the files that folders and glob patterns stand for.

    Args:
        images: As in :func:`infer`.

    Returns:
        Files and arrays, in order; files of a folder or pattern by name, without hidden ones. A file that is named in a
        list need not exist.

    Raises:
        FileNotFoundError: ``images`` names no file at all.
    """
    if isinstance(images, np.ndarray):
        return [images]
    if not isinstance(images, str | os.PathLike):
        return [s for entry in images for s in ([entry] if isinstance(entry, np.ndarray) else _find_files(entry))]
    name = os.fspath(images)
    found = _find_files(name)
    if os.path.isdir(name) and not found:
        raise FileNotFoundError(f'the folder {name} holds no files: name one with images')
    if found == [name] and not os.path.isfile(name):
        raise FileNotFoundError(f'{name}: no such file or folder, and no file matches it as a pattern')
    return found


def _find_files(name: str | os.PathLike) -> list[str]:
    """The files that a name stands for; itself if there are none."""
    name = os.path.expanduser(os.fspath(name))
    if os.path.isdir(name):
        found = [
            os.path.join(folder, file)
            for folder, folders, files in os.walk(name)
            for file in files
            if not file.startswith('.') and not _is_hidden(os.path.relpath(folder, name))
        ]
        return sorted(found)
    if os.path.isfile(name):
        return [name]
    return sorted(path for path in glob.glob(name, recursive=True) if os.path.isfile(path)) or [name]


def _is_hidden(folder: str) -> bool:
    return any(part.startswith('.') and part != '.' for part in folder.split(os.sep))


def is_video(source: str | np.ndarray) -> bool:
    """Whether a source is taken as a video, by the end of its name."""
    return isinstance(source, str) and source.lower().endswith(VIDEO_SUFFIXES)


class Predictor:
    """A trained model that predicts on images, built once; the arguments and errors are those of :func:`infer`.

    Attributes:
        inferencer: ``MMSegInferencer`` or ``DetInferencer``; ``inferencer.model`` is the model.
        info: Classes and colours.
        is_detector: Whether it predicts instances.
    """

    def __init__(
        self,
        config: str | Path,
        checkpoint: str | Path,
        device: str | None = None,
        score_thr: float = 0.3,
        cfg_options: dict[str, Any] | None = None,
    ) -> None:
        if not 0 <= score_thr <= 1:
            raise ValueError(f'score_thr={score_thr}: must be from 0 to 1')
        device = check_device(device)
        cfg = load_config(str(config), cfg_options)
        self.score_thr = score_thr
        self.is_detector = prepare_config(cfg, config) == 'mmdet'
        weights = read_checkpoint(str(checkpoint))
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            self.info = _dataset_info(cfg, _metainfo_of(str(checkpoint)))
        self.inferencer = build_inferencer(cfg, device, self.info)
        model = self.inferencer.model
        with naming_checkpoint(checkpoint):
            _load_weights(model, weights)
            _check_classes(model, self.info)
        model.dataset_meta = dict(classes=self.info.classes, palette=self.info.palette)
        self._loader = next(t for t in self.inferencer.pipeline.transforms if type(t).__name__ == 'InferencerLoader')

    def __call__(
        self, sources: Sequence[str | np.ndarray], batch_size: int = 1, on_skip: Skip | None = None
    ) -> Iterator[Result]:
        """Predict on files and arrays, as :func:`find_sources` gives them; see :func:`infer`."""
        if batch_size < 1:
            raise ValueError(f'batch_size={batch_size}: must be at least 1')
        for source in sources:
            if isinstance(source, np.ndarray) and (source.ndim != 3 or source.dtype != np.uint8):
                raise ValueError(
                    f'an array of shape {source.shape} and type {source.dtype} is no image: it must be '
                    '(height, width, 3) uint8, in BGR order'
                )
        return self._predict(sources, batch_size, on_skip or _warn)

    def read(self, path: str) -> np.ndarray:
        """Read an image as the config's test pipeline does.

        Returns:
            (H, W, 3) BGR uint8, unless the config says otherwise.

        Raises:
            ValueError: It cannot be read; the message is the reason.
        """
        try:
            CheckImage()({'img_path': path})
            return self._loader(path)['img']
        except Exception as error:  # a damaged file fails anywhere in a decoder
            raise ValueError(_reason(error).removeprefix(f'{path} is ')) from None

    def _predict(self, sources: Sequence[str | np.ndarray], batch_size: int, on_skip: Skip) -> Iterator[Result]:
        """Prepare a few batches' worth of images, predict on those of equal size together, yield in order."""
        waiting: list[_Prepared] = []
        for prepared in self._prepare_all(sources, on_skip):
            waiting.append(prepared)
            if len(waiting) >= (1 if batch_size == 1 else 8 * batch_size):
                yield from self._finish(waiting, batch_size, on_skip)
                waiting = []
        yield from self._finish(waiting, batch_size, on_skip)

    def _prepare_all(self, sources: Sequence[str | np.ndarray], on_skip: Skip) -> Iterator['_Prepared']:
        for path, frame, image in self._read(sources, on_skip):
            try:
                yield _Prepared(path, frame, image, self.inferencer.pipeline(image))
            except _image_errors() as error:
                on_skip(_name(path, frame), _reason(error))

    def _read(self, sources: Sequence[str | np.ndarray], on_skip: Skip) -> Iterator[tuple]:
        """Path, number of the frame and pixels of every image and frame that can be read."""
        for source in sources:
            if isinstance(source, np.ndarray):
                yield None, None, source
            elif is_video(source):
                for number, frame in enumerate(_read_video(source, on_skip), 1):
                    yield source, number, frame
            else:
                try:
                    yield source, None, self.read(source)
                except ValueError as error:
                    on_skip(source, str(error))

    def _finish(self, waiting: Sequence['_Prepared'], batch_size: int, on_skip: Skip) -> Iterator[Result]:
        sizes: dict[tuple, list[int]] = {}
        for i, prepared in enumerate(waiting):
            sizes.setdefault(tuple(prepared.data['inputs'].shape), []).append(i)
        samples: dict[int, Any] = {}
        for indices in sizes.values():
            for start in range(0, len(indices), batch_size):
                batch = indices[start : start + batch_size]
                samples.update(zip(batch, self._forward([waiting[i] for i in batch])))
        for i, prepared in enumerate(waiting):
            sample = samples[i]
            if isinstance(sample, Exception):
                on_skip(_name(prepared.path, prepared.frame), _reason(sample))
                continue
            yield Result(
                prepared.path, prepared.frame, _to_rgb(prepared.image), self._trim(sample, prepared), self.info
            )

    def _forward(self, batch: Sequence['_Prepared']) -> list:
        """A data sample for each image of a batch, or the reason why there is none."""
        try:
            return self.inferencer.forward(self.inferencer.collate_fn([deepcopy(prepared.data) for prepared in batch]))
        except _image_errors() as error:
            if len(batch) == 1:
                return [error]
        return [self._forward([prepared])[0] for prepared in batch]

    def _trim(self, sample: BaseDataElement, prepared: '_Prepared') -> BaseDataElement:
        """A data sample without what only takes memory, on the CPU."""
        for key in ('seg_logits', 'gt_instances', 'ignored_instances', 'gt_sem_seg'):
            if key in sample:
                delattr(sample, key)
        if 'pred_instances' in sample:
            found = sample.pred_instances
            found = found[found.scores >= self.score_thr]
            sample.pred_instances = found[found.scores.argsort(descending=True)]
        elif 'pred_sem_seg' not in sample:
            raise ValueError(
                f'{type(self.inferencer.model).__name__} predicts {", ".join(sample.keys())}, neither a segmentation nor '
                'instances'
            )
        sample.set_metainfo(dict(img_path=prepared.path))
        return sample.cpu()


@dataclass
class _Prepared:
    """An image, and what the test pipeline made of it."""

    path: str | None
    frame: int | None
    image: np.ndarray
    data: dict


def _warn(name: str, reason: str) -> None:
    warnings.warn(f'{name} skipped: {reason}', stacklevel=3)


def _name(path: str | None, frame: int | None) -> str:
    name = path or 'an array'
    return name if frame is None else f'{name}, frame {frame}'


def _reason(error: Exception) -> str:
    """One line that says why an image is skipped."""
    if isinstance(error, AssertionError) or type(error).__module__.startswith('cv2'):
        return 'no image, a damaged one, or of a format that OpenCV does not read'
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _image_errors() -> tuple:
    """What an image of a size that the model cannot take raises; anything else is a fault to be seen."""
    import cv2

    return ValueError, cv2.error, torch.cuda.OutOfMemoryError


def _to_rgb(image: np.ndarray) -> np.ndarray:
    if image.ndim == 2 or image.shape[2] == 1:
        image = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(image[..., 2::-1].astype(np.uint8))


def count_frames(path: str) -> int:
    """How many frames a video says it has; 0 if it does not say or cannot be read."""
    import cv2

    video = cv2.VideoCapture(path)
    try:
        return max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
    finally:
        video.release()


def _read_video(path: str, on_skip: Skip) -> Iterator[np.ndarray]:
    """Frames of a video, (H, W, 3) BGR uint8."""
    import cv2

    video = cv2.VideoCapture(path)
    try:
        expected = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        number = 0
        while True:
            there, frame = video.read()
            if not there:
                break
            number += 1
            yield frame
    finally:
        video.release()
    if not number:
        missing = not os.path.exists(path)
        on_skip(path, 'No such file or directory' if missing else 'no video, or of a format that OpenCV does not read')
    elif number < expected:
        on_skip(f'{path}, frames {number + 1} to {expected}', 'the video ends before them')


def check_device(device: str | None) -> str:
    """The device to use, a GPU for None if there is one; raises ValueError for one that is not there."""
    if device is None:
        return get_device()
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f'device {device!r} cannot be used here ({str(error).splitlines()[0]}): take cpu'
            + (f' or cuda:0 to cuda:{torch.cuda.device_count() - 1}' if torch.cuda.is_available() else '')
        ) from None
    return device


def prepare_config(cfg: Config, path: str | Path) -> str:
    """Make a config fit for :func:`build_inferencer`, in place.

    Args:
        cfg: Config, as ``load_config`` returns it.
        path: Its file, for messages.

    Returns:
        Its library, ``'mmseg'`` or ``'mmdet'``.

    Raises:
        ValueError: It is of another library, or lacks a model or how images are prepared.
    """
    library = cfg.get('default_scope')
    if library not in ('mmseg', 'mmdet'):
        raise ValueError(f'{path}: default_scope is {library!r}, predictions need mmseg or mmdet')
    if 'model' not in cfg or 'dataset' not in (cfg.get('test_dataloader') or {}):
        raise ValueError(f'{path} lacks model or test_dataloader, whose dataset says how images are prepared')
    cfg.model = cfg.model.get('module', cfg.model)  # inside a test-time augmentation wrapper
    dataset = cfg.test_dataloader.dataset
    while 'dataset' in dataset or 'datasets' in dataset:
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    # The inferencers look for LoadImageFromFile by that name alone, and only MMSegmentation's drops annotations.
    steps = [dict(step) for step in dataset.get('pipeline') or [] if not _is_about_annotations(_type_of(step))]
    loaders = [step for step in steps if _type_of(step) == 'LoadImageFromFile']
    if len(loaders) != 1:
        raise ValueError(f'{path}: the pipeline of test_dataloader.dataset must have one LoadImageFromFile')
    loaders[0]['type'] = 'LoadImageFromFile'
    dataset['pipeline'] = steps
    cfg.test_dataloader.dataset = dataset
    # The config's own visualizer may report to a server.
    cfg.visualizer = dict(type='SegLocalVisualizer' if library == 'mmseg' else 'DetLocalVisualizer')
    return library


def _type_of(step: dict) -> str:
    """Name of a transform, without its scope or module."""
    kind = step['type']
    return (kind if isinstance(kind, str) else kind.__name__).rpartition('.')[2]


def _is_about_annotations(kind: str) -> bool:
    return kind == 'CheckLabels' or (kind.startswith('Load') and 'Annotation' in kind)


def _metainfo_of(checkpoint: str) -> dict:
    """What MMEngine noted of the data set in a checkpoint; empty in one of another program."""
    content = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu', logger='silent')
    meta = content.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    found = meta.get('dataset_meta') or {key.lower(): meta[key] for key in ('CLASSES', 'PALETTE') if key in meta}
    return {key.lower(): value for key, value in found.items()}


def _dataset_info(cfg: Config, noted: dict) -> DatasetInfo:
    """Classes from a checkpoint's notes, else from the config's test set, which is not loaded."""
    dataset_cfg = {**deepcopy(cfg.test_dataloader.dataset), 'lazy_init': True, 'pipeline': []}
    dataset = DATASETS.build(dataset_cfg)
    classes = noted.get('classes') or dataset.metainfo.get('classes')
    if not classes:
        raise ValueError(
            'neither the checkpoint nor the config names the classes: add '
            "test_dataloader.dataset.metainfo = dict(classes=('a', 'b', ...))"
        )
    classes = (classes,) if isinstance(classes, str) else tuple(map(str, classes))
    palette = next(
        (p for p in (noted.get('palette'), dataset.metainfo.get('palette')) if _is_palette(p, classes)), None
    )
    if palette is None:
        from matplotlib import colormaps

        palette = (255 * colormaps['viridis'](np.linspace(0, 1, len(classes)))[:, :3]).astype(int).tolist()
    file = getattr(dataset, 'ann_file', None) if cfg.default_scope == 'mmdet' else None
    return DatasetInfo(
        classes,
        tuple(tuple(map(int, colour)) for colour in palette[: len(classes)]),
        bool(getattr(dataset, 'reduce_zero_label', False)),
        Path(file) if file else None,
    )


def _is_palette(palette: Any, classes: Sequence[str]) -> bool:
    return isinstance(palette, list | tuple | np.ndarray) and len(palette) >= len(classes)


def build_inferencer(cfg: Config, device: str, info: DatasetInfo | None = None) -> Any:
    """Build MMSegmentation's or MMDetection's inferencer, with a model that has no weights yet.

    Args:
        cfg: Config, after :func:`prepare_config`.
        device: See :func:`check_device`.
        info: Classes and colours, for the inferencer's own pictures; None takes the library's defaults.

    Returns:
        ``MMSegInferencer`` or ``DetInferencer``.
    """
    options: dict[str, Any] = {} if info is None else dict(palette=info.palette)
    with _quiet():
        if cfg.default_scope == 'mmseg':
            from mmseg.apis import MMSegInferencer

            inferencer = MMSegInferencer(cfg, classes=info and info.classes, device=device, **options)
        else:
            from mmdet.apis import DetInferencer

            inferencer = DetInferencer(cfg, device=device, **options)
    inferencer.show_progress = False
    return inferencer


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings that the weights are missing, which come next, and of MMEngine's registry for collate functions."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        logger.setLevel('ERROR')
        try:
            yield
        finally:
            logger.setLevel(level)


def _load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load all weights that predictions need.

    Raises:
        ValueError: They do not fit, or one is missing.
    """
    expected = model.state_dict()
    weights = unwrap(weights)
    if has_one_backbone(expected):
        fit = fit_model(weights, expected)
        check_heads(fit)
        weights = fit.weights
    else:
        wrong = [name for name in expected if name in weights and weights[name].shape != expected[name].shape]
        if wrong:
            shapes = tuple(weights[wrong[0]].shape), tuple(expected[wrong[0]].shape)
            raise ValueError(f'{wrong[0]} is {shapes[0]} in the checkpoint, {shapes[1]} in the model')
    missing, _ = model.load_state_dict(weights, strict=False)
    missing = [name for name in missing if not any(part in name for part in NOT_NEEDED)]
    if missing:
        raise ValueError(f'{len(missing)} weights of the model are not in it, such as {missing[0]}')


def _check_classes(model: nn.Module, info: DatasetInfo) -> None:
    """Raise ValueError if a model has another number of classes than there are names."""
    head = getattr(model, 'decode_head', None) or getattr(model, 'roi_head', None) or model
    head = getattr(head, 'bbox_head', head)
    if isinstance(head, nn.ModuleList):
        head = head[-1]
    number = getattr(head, 'num_classes', None)
    if isinstance(number, int) and number != len(info.classes):
        raise ValueError(
            f'the model has {number} classes, but {len(info.classes)} are named: give the config it was trained with'
        )
