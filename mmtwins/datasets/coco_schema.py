"""COCO's annotation format as a schema, and a reader for files that may violate it.

Source: the format as pycocotools, MMDetection's ``CocoDataset`` and ``COCOeval`` read it.
"""

import gc
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import NotRequired, TypedDict

from .files import file_problem
from .findings import Findings

SECTIONS = ('images', 'annotations', 'categories')
STRICT = ConfigDict(strict=True, extra='ignore')

Id = Annotated[int, Field(gt=-(2**53), lt=2**53, description='a whole number')]
Side = Annotated[int, Field(ge=1, le=2**20, description='a whole number of pixels, at least 1')]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
Flag = Annotated[Annotated[int, Field(ge=0, le=1)] | bool, Field(description='0 or 1')]
Polygons = list[list[Number]]


@with_config(STRICT)
class Image(TypedDict):
    """An entry of ``images``."""

    id: Id
    file_name: Annotated[str, Field(min_length=1, description='the path of an image, as text')]
    height: Side
    width: Side


@with_config(STRICT)
class Category(TypedDict):
    """An entry of ``categories``."""

    id: Id
    name: Annotated[str, Field(min_length=1, description='a text')]


@with_config(STRICT)
class Annotation(TypedDict):
    """An entry of ``annotations``; its mask is checked separately, and only if it is used."""

    id: Id
    image_id: Id
    category_id: Id
    bbox: Annotated[
        list[Number],
        Field(min_length=4, max_length=4, description='four finite numbers: x, y, width and height in pixels'),
    ]
    area: Annotated[float, Field(allow_inf_nan=False, description='a finite number of pixels')]
    iscrowd: NotRequired[Flag]
    ignore: NotRequired[Flag | None]


@with_config(STRICT)
class RunLengths(TypedDict):
    """A mask as run lengths, compressed to text or not."""

    size: Annotated[list[int], Field(min_length=2, max_length=2)]
    counts: str | list[Annotated[int, Field(ge=0, lt=2**32)]]


SCHEMAS: dict[str, TypeAdapter] = dict(
    images=TypeAdapter(Image), annotations=TypeAdapter(Annotation), categories=TypeAdapter(Category)
)
POLYGONS: TypeAdapter = TypeAdapter(Polygons, config=ConfigDict(strict=True))
RUN_LENGTHS: TypeAdapter = TypeAdapter(RunLengths)
DESCRIPTIONS = {
    (section, name): field.get('description', 'what COCO has there')
    for section, adapter in SCHEMAS.items()
    for name, field in adapter.json_schema()['properties'].items()
}


@dataclass
class CocoFile:
    """The entries of an annotation file that follow the schema.

    Attributes:
        path: The file.
        images, annotations, categories: Their entries, as MMDetection sees them.
    """

    path: str
    images: list[dict]
    annotations: list[dict]
    categories: list[dict]


def read_coco(path: str, findings: Findings, needs_annotations: bool = True) -> CocoFile | None:
    """Read an annotation file and compare every entry with the schema.

    Args:
        path: JSON file.
        findings: Gets what is wrong.
        needs_annotations: Whether a file without ``annotations`` is an error.

    Returns:
        The valid entries; None if the file as a whole cannot be used.
    """
    remedy = "Give the path of an annotation file in COCO's format as ann_file"
    if problem := file_problem(path):
        findings.add('file', path, f'the annotation file {problem}', remedy)
        return None
    content, problem = _load_json(path)
    if problem:
        findings.add('json', path, problem, 'Export or download the file again')
        return None
    if not isinstance(content, dict):
        kind = 'a list, as files of results are' if isinstance(content, list) else f'a {type(content).__name__}'
        findings.add('schema', path, f'it holds {kind}, not a dict of images, annotations and categories', remedy)
        return None
    sections: dict[str, list[dict]] = {}
    for section in SECTIONS:
        entries = content.get(section)
        if entries is None and section == 'annotations' and not needs_annotations:
            entries = []
            findings.add('schema', path, 'it has no annotations', 'Expect no metrics from this split', is_error=False)
        if not isinstance(entries, list):
            what = 'has no' if entries is None else f'has a {type(entries).__name__}, not a list, as'
            findings.add('schema', path, f'it {what} {section}', remedy)
            return None
        sections[section] = _valid_entries(path, section, entries, findings)
    return CocoFile(path, **sections)


def name_entry(section: str, entry: Any, index: int) -> str:
    """A name of an entry for messages, such as ``annotation 17 of image 4``."""
    singular = dict(images='image', annotations='annotation', categories='category')[section]
    if not isinstance(entry, dict) or 'id' not in entry:
        return f'{section}[{index}]'
    image = f' of image {entry["image_id"]!r}' if section == 'annotations' and 'image_id' in entry else ''
    file = f' {entry["file_name"]}' if section == 'images' and isinstance(entry.get('file_name'), str) else ''
    return f'{singular} {entry["id"]!r}{image}{file}'


def _load_json(path: str) -> tuple[Any, str]:
    """Read the content as pycocotools does; returns it, or the reason why it cannot be read."""
    was_enabled = gc.isenabled()
    gc.disable()  # millions of new objects, none of them garbage
    try:
        with open(path) as file:
            return json.load(file), ''
    except json.JSONDecodeError as error:
        return None, f'it is no JSON: {error.msg} in line {error.lineno}, column {error.colno}'
    except UnicodeDecodeError as error:
        return None, f'it is no text file in UTF-8: byte {error.start} is {error.object[error.start]:#04x}'
    except RecursionError:
        return None, 'its brackets are nested too deeply'
    except MemoryError:
        return None, 'it does not fit into memory'
    except (OSError, ValueError) as error:  # ValueError: a number of thousands of digits
        return None, f'it cannot be read: {error}'
    finally:
        if was_enabled:
            gc.enable()


def _valid_entries(path: str, section: str, entries: list, findings: Findings) -> list[dict]:
    """The entries that follow the schema; the others become findings, one for each field."""
    validate = SCHEMAS[section].validator.validate_python  # without the adapter's own checks: half the time
    valid: list[dict] = []
    wrong: dict[tuple[str, bool], list[str]] = {}
    counts: dict[tuple[str, bool], int] = {}
    decimal: list[str] = []
    for index, entry in enumerate(entries):
        try:
            validate(entry)
        except ValidationError as error:
            repaired = _without_decimals(entry)
            if repaired is not None and not _errors_of(section, repaired):
                decimal.append(name_entry(section, entry, index))
                entry.update(repaired)
                valid.append(entry)
                continue
            for key in {(str((one['loc'] or ('',))[0]), one['type'] == 'missing') for one in error.errors()}:
                counts[key] = counts.get(key, 0) + 1
                if counts[key] <= 5:
                    value = '' if key[1] or not key[0] else f': {entry[key[0]]!r}'
                    wrong.setdefault(key, []).append(f'{name_entry(section, entry, index)}{value}')
        else:
            valid.append(entry)
    for (field, is_missing), cases in sorted(wrong.items()):
        number = counts[field, is_missing]
        what = DESCRIPTIONS.get((section, field), 'a dict')
        if not field:
            text = f'{number:,} of {len(entries):,} {section} are no dicts'
        elif is_missing:
            text = f'{number:,} of {len(entries):,} {section} have no {field}'
        else:
            text = f'{number:,} of {len(entries):,} {section} have a {field} that is not {what}'
        remedy = f'Write {f"{field} as {what}" if field else "a dict"}, or remove these {section}'
        findings.add('schema', path, text, remedy, cases=cases, count=number)
    if decimal:
        text = f'{len(decimal):,} {section} have whole numbers with a decimal point'
        findings.add('schema', path, text, 'Write 1 and not 1.0', is_error=False, cases=decimal)
    return valid


def _errors_of(section: str, entry: Any) -> list:
    try:
        SCHEMAS[section].validate_python(entry)
    except ValidationError as error:
        return error.errors()
    return []


def _without_decimals(entry: Any) -> dict | None:
    """The entry with 1 instead of 1.0, which all readers treat alike; None if there is no such number."""
    if not isinstance(entry, dict):
        return None
    whole = {key: int(value) for key, value in entry.items() if isinstance(value, float) and value.is_integer()}
    return {**entry, **whole} if whole else None


def repeated(values: Iterable[Any]) -> list[Any]:
    """The values that occur again, once for each time."""
    seen: set = set()
    return [value for value in values if value in seen or seen.add(value)]  # type: ignore[func-returns-value]


def entries_by_id(entries: Sequence[dict]) -> dict[int, dict]:
    """The entries by id; if several have the same id, the last one, as in pycocotools."""
    return {entry['id']: entry for entry in entries}
