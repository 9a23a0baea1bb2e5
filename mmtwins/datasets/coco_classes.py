"""Match the categories of a COCO file with the classes of a config, by name."""

from .category_ids import with_similar
from .coco_schema import CocoFile, repeated
from .data_sources import Source
from .findings import Findings


def check_categories(file: CocoFile, source: Source, findings: Findings) -> None:
    """Compare categories with classes. They are matched by name; their order does not matter."""
    given = source.dataset.metainfo.get('classes')
    names = [category['name'] for category in file.categories]
    where = f'{source.key}.metainfo.classes'
    if not source.classes or not all(isinstance(name, str) for name in source.classes):
        text = f'{where} is {given!r}, not a tuple of names'
        findings.add('classes', file.path, text, f'Write metainfo=dict(classes={tuple(names)!r}) for the data set')
        return
    if twice := repeated(source.classes):
        findings.add('classes', file.path, f'{where} has a name twice', 'Remove one', cases=twice)
        return
    palette = source.dataset.metainfo.get('palette') or ()
    if isinstance(palette, list | tuple) and 0 < len(palette) < len(source.classes):
        text = f'{source.key}.metainfo.palette has {len(palette)} colours for {len(source.classes)} classes'
        findings.add('classes', file.path, text, 'Give one colour for each class, or no palette')
    if twice := [name for name in repeated(names) if name in source.classes]:
        text = 'it has several categories of one name, and a class can be only one of them'
        findings.add('classes', file.path, text, 'Make them one category', cases=twice)
        return
    surplus = [name for name in names if name not in source.classes]
    missing = [name for name in source.classes if name not in names]
    if missing:
        cases = [with_similar(name, surplus) for name in missing]
        all_of_them = (
            "none of the config's classes is a category of the file"
            if len(missing) == len(source.classes)
            else (f'{len(missing)} of the {len(source.classes)} classes of the config are no categories of the file')
        )
        remedy = f'Correct {where} or the file; its categories are {tuple(names)!r}'
        findings.add('classes', file.path, all_of_them, remedy, cases=cases)
        return
    if surplus:
        text = f'{len(surplus)} categories are no classes of the config, their boxes are left out'
        remedy = f'Add them to {where} if they should be learnt'
        findings.add('classes', file.path, text, remedy, is_error=False, cases=surplus)
