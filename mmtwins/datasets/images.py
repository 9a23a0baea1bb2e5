"""Check that images exist, can be read by the config's pipeline, are whole, and have the size that annotations assume."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .damage import find_damage, mend
from .files import FileIndex, file_problem
from .findings import Findings
from .passes import Pass

ORIENTATION = 0x0112  # tag of EXIF
LARGE = 100_000_000  # pixels; decoded, 300 MB
MANY_CUT_OFF = 0.1  # a training goes on with single ones, as the public code does


@dataclass(frozen=True)
class Decoder:
    """How the pipeline of a config reads images.

    Attributes:
        backend: Of ``mmcv.imfrombytes``.
        flag: ``color``, ``unchanged`` and so on.
        mends: Whether it gives files without their end one, see :func:`mmtwins.datasets.damage.mend`.
    """

    backend: str = 'cv2'
    flag: str = 'color'
    mends: bool = False

    @classmethod
    def of(cls, steps: Mapping[str, dict]) -> 'Decoder':
        """For images, from the steps of a pipeline by type."""
        step = steps.get('LoadImageFromFile', {})
        return cls(step.get('imdecode_backend') or 'cv2', step.get('color_type') or 'color', _is_checked(step))

    @classmethod
    def of_labels(cls, steps: Mapping[str, dict]) -> 'Decoder':
        """For label images; ``CheckLabels`` refuses what does not decode in any case."""
        step = steps.get('LoadAnnotations', {})
        return cls(step.get('imdecode_backend') or 'pillow', 'unchanged', _is_checked(step) or 'CheckLabels' in steps)

    def decode(self, content: bytes) -> np.ndarray:
        """Decode an image as the pipeline does; raises ValueError if it cannot be decoded."""
        import mmcv

        content = mend(content, self.backend)[0] if self.mends else content
        image = mmcv.imfrombytes(content, flag=self.flag, backend=self.backend)
        if image is None:
            raise ValueError(f'{self.backend} cannot decode it')
        return image

    @property
    def turns(self) -> bool:
        """Whether decoding turns an image by its EXIF orientation."""
        return self.flag in ('color', 'grayscale')


@dataclass(frozen=True)
class ImageFact:
    """What an image file holds.

    Attributes:
        size: Height and width as decoded, in pixels; (0, 0) if it cannot be read.
        orientation: Of EXIF; 1 is upright.
        channels: As decoded; 0 where only the header was read.
        problem: Why it cannot be read, empty if it can.
        is_damaged: Whether it is cut off or damaged, but decodes.
    """

    size: tuple[int, int] = (0, 0)
    orientation: int = 1
    channels: int = 0
    problem: str = ''
    is_damaged: bool = False


@dataclass
class ImageTable:
    """The images of a data set.

    Attributes:
        paths: All of them.
        facts: Of those that were looked at, by index.
    """

    paths: Sequence[str]
    facts: dict[int, ImageFact] = field(default_factory=dict)


def inspect_image(path: str, decoder: Decoder, whole: bool) -> ImageFact:
    """Read an image file.

    Args:
        path: Of the image.
        decoder: How the pipeline reads it.
        whole: Whether to decode it; otherwise its header alone, where Pillow knows the format.

    Returns:
        What it holds.
    """
    from PIL import Image

    if problem := file_problem(path):
        return ImageFact(problem=problem)
    try:
        with open(path, 'rb') as file:
            content = file.read()
    except OSError as error:
        return ImageFact(problem=f'cannot be read ({error.strerror})')
    size, orientation, is_damaged = (0, 0), 1, False
    try:
        with Image.open(io.BytesIO(content)) as image:
            size, is_damaged = (image.height, image.width), bool(find_damage(content))
            found = image.getexif().get(ORIENTATION, 1)
            orientation = found if isinstance(found, int) and 1 <= found <= 8 else 1
    except Exception:  # OpenCV may know more formats, and is forgiving; Pillow raises many kinds
        whole = True
    if not whole and not is_damaged:
        return ImageFact(size[::-1] if decoder.turns and orientation > 4 else size, orientation)
    try:
        decoded = decoder.decode(content)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return ImageFact(orientation=orientation, problem=f'cannot be decoded ({reason[0]})')
    channels = 1 if decoded.ndim == 2 else decoded.shape[2]
    return ImageFact(decoded.shape[:2], orientation, channels, is_damaged=is_damaged)


def check_images(
    paths: Sequence[str],
    sizes: Sequence[tuple[int, int]] | None,
    decoder: Decoder,
    where: str,
    findings: Findings,
    options: Pass,
) -> ImageTable:
    """Check the images of a COCO file.

    Args:
        paths: Of all images.
        sizes: Height and width of each as the annotation file has it.
        decoder: How the pipeline reads them.
        where: The annotation file.
        findings: Gets what is wrong.
        options: How much to look at.

    Returns:
        What they hold.
    """
    table = ImageTable(paths)
    chosen = check_existence(paths, where, 'images', findings, options)
    facts = options.run(lambda index: inspect_image(paths[index], decoder, not options.fast), chosen, 'images')
    for index, outcome in zip(chosen, facts):
        table.facts[index] = outcome.value or ImageFact(problem=outcome.failure)
    report_facts({paths[index]: fact for index, fact in table.facts.items()}, where, findings)
    if sizes is not None:
        other = {i: fact for i, fact in table.facts.items() if not fact.problem and fact.size != tuple(sizes[i])}
        if other:
            turned = sum(fact.size == tuple(sizes[i][::-1]) and fact.orientation > 4 for i, fact in other.items())
            cause = f' ({turned:,} of them because their EXIF orientation turns them)' if turned else ''
            text = f'{len(other):,} images have another size than the annotation file says{cause}'
            remedy = 'Correct height and width in it, and the boxes if the images were resized'
            cases = [f'{paths[i]}: {_by(f.size)}, not {_by(sizes[i])}' for i, f in list(other.items())[:5]]
            findings.add('image-size', where, text, remedy, cases=cases, count=len(other))
    return table


def check_existence(paths: Sequence[str], where: str, what: str, findings: Findings, options: Pass) -> list[int]:
    """Check that all files exist; returns the indices of those to look into."""
    index = FileIndex()
    problems = {i: problem for i, path in enumerate(paths) if (problem := index.problem(path))}
    if problems:
        text = f'{len(problems):,} of {len(paths):,} {what} cannot be read'
        remedy = 'Put the files there, or correct data_root and data_prefix in the config or the names in the file'
        cases = [f'{paths[i]} {problem}' for i, problem in list(problems.items())[:5]]
        findings.add('missing-file', where, text, remedy, cases=cases, count=len(problems))
    return options.choose([i for i in range(len(paths)) if i not in problems])


def report_facts(facts: Mapping[str, ImageFact], where: str, findings: Findings) -> None:
    """Report faults of images that do not depend on annotations."""
    number = len(facts)
    unreadable = {path: fact.problem for path, fact in facts.items() if fact.problem}
    if unreadable:
        text = f'{len(unreadable):,} of {number:,} images are no images that the pipeline can read'
        cases = [f'{path} {problem}' for path, problem in unreadable.items()]
        findings.add('image-unreadable', where, text, 'Copy or convert them again, or remove them', cases=cases)
    if cut_off := [path for path, fact in facts.items() if fact.is_damaged and not fact.problem]:
        share = len(cut_off) / number
        text = (
            f'{len(cut_off):,} of {number:,} images ({share:.1%}) are cut off or damaged, and what is missing gets grey'
        )
        findings.add(
            'image-cut-off', where, text, 'Copy or download them again.', cases=cut_off, is_error=share > MANY_CUT_OFF
        )
    if turned := [path for path, fact in facts.items() if fact.orientation != 1]:
        text = f'{len(turned):,} of {number:,} images have an EXIF orientation, which OpenCV follows'
        remedy = 'Make sure that their annotations are for the turned image'
        findings.add('image-turned', where, text, remedy, cases=turned, is_error=False)
    if large := [path for path, fact in facts.items() if fact.size[0] * fact.size[1] > LARGE]:
        text = f'{len(large):,} of {number:,} images have more than {LARGE // 10**6} million pixels'
        findings.add('image-large', where, text, 'Cut them into tiles', cases=large, is_error=False)
    kinds = Counter(fact.channels for fact in facts.values() if fact.channels)
    if len(kinds) > 1:
        usual = kinds.most_common(1)[0][0]
        cases = [f'{path} has {f.channels}' for path, f in facts.items() if f.channels not in (0, usual)]
        text = f'{len(cases):,} of {number:,} images have another number of channels than {usual}'
        findings.add('image-channels', where, text, "Convert them, or load with color_type='color'", cases=cases)


def _is_checked(step: Mapping) -> bool:
    """Whether a step reads through the backend of :mod:`mmtwins.engine.reading`."""
    found = step.get('backend_args')
    return isinstance(found, Mapping) and found.get('backend') == 'checked'


def _by(size: Any) -> str:
    """A size as width x height."""
    return f'{size[1]} x {size[0]}'
