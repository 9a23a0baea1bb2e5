"""Pictures of a training while it runs: its curves, and predictions on the same validation images each time."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.visualization.vis_backend import LocalVisBackend

from .random_states import kept_random_states
from .scalars import read_scalars
from .validation_samples import MIN_SCORE, read_example

FOLDER = 'pictures'  # in the work directory
PATIENCE = 60  # seconds between two drawings of the curves, and at least a hundred times as long as a drawing takes


@HOOKS.register_module()
class TrainingPicturesHook(Hook):
    """Draw loss, metrics and learning rate, and at each validation the predictions on a few of its images.

    ``pictures/curves.png`` in the work directory is drawn anew every minute at most, after each validation and at the end.
    ``pictures/predictions/iter_NUMBER.png`` shows the same images at each validation, beside the truth. Visualizers of
    other services, such as TensorBoard, get the predictions too. Nothing that the training computes changes, and a
    picture that cannot be drawn is a warning.

    Args:
        draw: Whether to draw anything.
        num_images: Validation images, spread evenly over the data set; 0 draws no predictions.
        min_score: Detections with a lower score are left out.
    """

    priority = 'LOWEST'  # after the numbers are logged

    def __init__(self, draw: bool = True, num_images: int = 4, min_score: float = MIN_SCORE) -> None:
        if num_images < 0:
            raise ValueError(f'num_images={num_images}: give a number of images, 0 or more')
        self.draw = draw
        self.num_images = num_images
        self.min_score = min_score
        self._seen = 0
        self._examples: dict[str, Any] = {}
        self._drawn = time.monotonic()
        self._cost = 0.0
        self._is_training = False
        self._warned: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Begin: a validation by itself is not drawn."""
        self._is_training = self.draw and is_main_process()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Draw the curves if it is time."""
        if self._is_training and time.monotonic() - self._drawn > max(PATIENCE, 100 * self._cost):
            self._draw_curves(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        """Begin to collect."""
        self._seen, self._examples = 0, {}

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[Any] | None = None
    ) -> None:
        """Keep the images of a batch that are to be drawn, at the size of a panel."""
        if not self._is_training or not self.num_images:
            return
        places = self._places(runner)
        for number, sample in enumerate(outputs or ()):
            if self._seen + number in places:
                self._try(runner, partial(self._keep, runner, data_batch, number, sample))
        self._seen += len(outputs or ())

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Draw predictions and curves."""
        if self._is_training:
            if self._examples:
                self._try(runner, lambda: self._draw_examples(runner))
            self._draw_curves(runner)

    def after_train(self, runner: Runner) -> None:
        """Draw the last curves."""
        if self._is_training:
            self._draw_curves(runner)
        self._is_training = False

    def _places(self, runner: Runner) -> set[int]:
        """Which of the samples that this process validates are drawn, counted from 0."""
        last = -(-len(runner.val_dataloader.dataset) // runner.world_size) - 1
        return {round(place) for place in np.linspace(0, last, self.num_images)} if last >= 0 else set()

    def _keep(self, runner: Runner, batch: Any, number: int, sample: Any) -> None:
        found = read_example(sample, _sample_of(batch, number), runner.val_dataloader.dataset, self.min_score)
        if found is not None:
            self._examples[sample.img_path] = found

    def _draw_examples(self, runner: Runner) -> None:
        from ..figures.examples import describe_rate, draw_examples

        meta = runner.val_dataloader.dataset.metainfo
        classes = list(meta['classes'])
        titled: dict[str, Any] = {}
        for file, example in self._examples.items():
            name = Path(file).name
            short = name if len(name) <= 24 else f'...{name[-21:]}'
            rate = '' if example.truth is None else f': {describe_rate(example, len(classes))}'
            title = f'{short}{rate}'
            same = sum(one.startswith(title) for one in titled)
            titled[f'{title} ({same + 1})' if same else title] = example
        self._examples = {}
        path = Path(runner.work_dir, FOLDER, 'predictions', f'iter_{runner.iter:06}.png')
        palette = meta.get('palette')
        if not isinstance(palette, Sequence) or isinstance(palette, str) or len(palette) < len(classes):
            palette = _colours(len(classes))
        _write(path, lambda partial: draw_examples(titled, classes, palette, partial))
        others = [one for one in runner.visualizer._vis_backends.values() if not isinstance(one, LocalVisBackend)]
        if others:
            picture = _read_picture(path)
            for backend in others:
                backend.add_image('predictions', picture, step=runner.iter)

    def _draw_curves(self, runner: Runner) -> None:
        def draw() -> None:
            from ..figures.curves import draw_training_curves, find_metrics

            records = read_scalars(runner.work_dir)
            if records:
                name = Path(runner.work_dir).name
                metrics = {name: find_metrics(records)}
                path = Path(runner.work_dir, FOLDER, 'curves.png')
                _write(path, lambda partial: draw_training_curves({name: records}, metrics, partial))

        begun = time.monotonic()
        self._try(runner, draw)
        self._drawn = time.monotonic()
        self._cost = self._drawn - begun

    def _try(self, runner: Runner, draw: Callable[[], None]) -> None:
        """Draw something without a trace in the training; the first failure of a kind is one line."""
        try:
            with kept_random_states():
                draw()
        except Exception as error:  # whatever it is, a picture is no reason to end a training
            reason = f'{type(error).__name__}: {str(error).splitlines()[0]}' if str(error) else type(error).__name__
            if reason not in self._warned:
                self._warned.add(reason)
                runner.logger.warning(
                    f'A picture of the training could not be drawn ({reason}); the training goes on. '
                    'default_hooks.pictures.draw=False draws none'
                )


def _write(path: Path, draw: Callable[[Path], Any]) -> None:
    """Write a picture at once, so that a viewer never sees half of it, and an earlier one stays if there is no room."""
    partial = path.with_name(f'.{path.stem}.partial{path.suffix}')
    try:
        draw(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _read_picture(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert('RGB'))


def _sample_of(batch: Any, number: int) -> Any:
    """What the data loader gave for a sample, None where it cannot be told."""
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    return samples[number] if isinstance(samples, Sequence) and number < len(samples) else None


def _colours(number: int) -> list[tuple[int, int, int]]:
    """Colours for classes without any."""
    from matplotlib import colormaps

    shades = [colormaps['turbo']((i + 0.5) / number) for i in range(number)]
    return [(int(255 * red), int(255 * green), int(255 * blue)) for red, green, blue, _ in shades]
