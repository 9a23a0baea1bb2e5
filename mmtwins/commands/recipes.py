"""Show the recipes: name, published metric, parameters, MACs and starting weights."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ..engine.config_names import recipe_files, shipped_folder
from .parsing import parse

TASKS = {
    'segmentation': 'Semantic segmentation',
    'detection': 'Object detection and instance segmentation',
    'classification': 'Image classification',
}
DATASETS = {
    'ade20k': ('segmentation', 'ADE20K'),
    'coco': ('detection', 'COCO'),
    'imagenet': ('classification', 'ImageNet-1k'),
}
ARCHS = {'s': 'small', 'b': 'base', 'l': 'large'}
NOTE = (
    'Metrics are those that the Twins authors published; a dash stands for none. MACs are of the whole model, for one '
    'image of the given size, in pixels. `mmtwins train NAME` trains a recipe.'
)
EXAMPLE = 'mmtwins list upernet svt-s --task segmentation'


@dataclass(frozen=True)
class Recipe:
    """A recipe, as the list shows it.

    Attributes:
        name: Name of the recipe, which every command takes as a config.
        task: One of :data:`TASKS`.
        dataset: Data set that it trains on.
        model: Backbone and head.
        metrics: Published results, in percent.
        parameters: Number of parameters of the whole model, without the authors' unused classifier; None if not counted.
        macs: MACs of the whole model for one image; None if not counted.
        image_size: Size of that image, height x width in pixels.
        weights: Checkpoint that the training starts from; None for random weights.
        config: Path of the config file.
        source: Where the metrics are published.
    """

    name: str
    task: str
    dataset: str
    model: str
    metrics: dict[str, float] = field(default_factory=dict)
    parameters: int | None = None
    macs: int | None = None
    image_size: str = ''
    weights: str | None = None
    config: str = ''
    source: str = ''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``mmtwins list``."""
    parser.add_argument(
        'word', nargs='*', help='show the recipes that have all of these words, such as upernet svt-s (default: all)'
    )
    parser.add_argument('--task', choices=TASKS, help='show the recipes of this task (default: of all)')
    parser.add_argument('--json', action='store_true', help='print JSON instead of tables')


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``mmtwins list ARGV``."""
    args = parse(__name__, argv)
    found = [
        recipe
        for recipe in read_recipes()
        if args.task in (None, recipe.task)
        and all(word.lower() in f'{recipe.name} {recipe.model} {recipe.dataset}'.lower() for word in args.word)
    ]
    if args.json:
        print(json.dumps([asdict(recipe) for recipe in found], indent=2))
        return
    if not found:
        sys.exit(f'error: no recipe has {" and ".join(args.word)}: `mmtwins list` without words shows all of them')
    show(found)


def read_recipes() -> list[Recipe]:
    """Read all recipes: by task, those with published results first, then those for options of training, then the demo's."""
    described = _read_metafiles()
    found: dict[str, Recipe] = {}
    for name, path in sorted(recipe_files().items(), key=lambda item: item[1].parent.name not in DATASETS):
        if name in described:
            found[name] = _from_metafile(name, path, described[name])
        else:
            found[name] = _from_name(name, path, found)
    order = [*described, *found]  # metafiles have the order of the ledger
    return sorted(found.values(), key=lambda recipe: (list(TASKS).index(recipe.task), order.index(recipe.name)))


def _read_metafiles() -> dict[str, dict]:
    """The entries of all metafiles of model-index.yml, by name."""
    import yaml

    loader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
    folder = shipped_folder()

    def read(path: Path) -> dict:
        return yaml.load(path.read_text(encoding='utf-8'), loader)

    files = read(folder / 'model-index.yml')['Import']
    return {model['Name']: model for file in files for model in read(folder / file)['Models']}


def _from_metafile(name: str, path: Path, entry: dict) -> Recipe:
    task, dataset = DATASETS[path.parent.name]
    metadata = entry['Metadata']
    return Recipe(
        name,
        task,
        dataset,
        ', '.join(metadata['Architecture']),
        {key: value for result in entry.get('Results', ()) for key, value in result['Metrics'].items()},
        metadata['Parameters'],
        metadata['FLOPs'],
        metadata['Image Size'],
        None if task == 'classification' else _starting_weights(name),
        str(path),
        metadata.get('Results Source', ''),
    )


def _from_name(name: str, path: Path, known: dict[str, Recipe]) -> Recipe:
    """A recipe without a metafile: its model is that of a known recipe with the same head and backbone, or a toy's."""
    head, backbone = name.split('_')[:2]
    base = next((recipe for recipe in known.values() if recipe.name.startswith(f'{head}_{backbone}_')), None)
    if base is not None:
        return replace(base, name=name, metrics={}, config=str(path), source='')
    task = 'detection' if head in ('mask-rcnn', 'retinanet') else 'segmentation'
    return Recipe(name, task, 'generated scenes', f'{backbone}, {head}', config=str(path))


def _starting_weights(name: str) -> str:
    """The ImageNet weights that a recipe starts from, by the backbone in its name."""
    found = re.search(r'twins-(svt|pcpvt)-([sbl])', name)
    assert found, name
    return f'imagenet:{found[1]}-{ARCHS[found[2]]}'


def show(recipes: Sequence[Recipe]) -> None:
    """Print a table for each task; if the terminal is too narrow for it, two lines for each recipe.

    Args:
        recipes: Recipes to print.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    for task, title in TASKS.items():
        table = Table('name', 'published', title=title, title_justify='left', title_style='bold')
        table.add_column('parameters (M)', justify='right')
        table.add_column('MACs (G)', justify='right')
        table.add_column('starts from')
        cells = [_cells(recipe) for recipe in recipes if recipe.task == task]
        for row in cells:
            table.add_row(*row)
        if not cells:
            continue
        if console.measure(table, options=console.options.update(width=1000)).maximum <= console.width:
            console.print(table)
            continue
        console.print(f'{title}\n', style='bold')
        for name, metrics, parameters, macs, weights in cells:
            costs = f'{parameters} M parameters; {macs.replace(" at", " GMACs at")}'
            console.print(f'{name}\n  {metrics.replace(chr(10), ", ")}; {costs}; {weights}', soft_wrap=True)
        console.print()
    console.print(NOTE, soft_wrap=True, markup=False)


def _cells(recipe: Recipe) -> tuple[str, str, str, str, str]:
    """The cells of a row: name, metrics, parameters in M, MACs in G, starting weights."""
    return (
        recipe.name,
        '\n'.join(f'{key} {value:.1f}' for key, value in recipe.metrics.items()) or '-',
        f'{recipe.parameters / 1e6:.1f}' if recipe.parameters else '-',
        f'{recipe.macs / 1e9:.1f} at {recipe.image_size}' if recipe.macs else '-',
        recipe.weights or 'random weights',
    )
