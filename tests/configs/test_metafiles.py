"""Metafiles, reproduction ledger and READMEs: every config once, and the numbers of mmtwins.analysis.published everywhere."""

import random
import re
from pathlib import Path

import pytest
import yaml

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from pages import ADE20K, COCO, IMAGENET, LEDGER, NO_STATEMENT, NUMBER, PAGES, REPOSITORY, part_of, problems
from recipes import RECIPES

from mmtwins.analysis.counting import build_model, count
from mmtwins.analysis.published import RUNS
from mmtwins.analysis.published_classifiers import CLASSIFIERS
from mmtwins.engine.config import load_config

METAFILES = [REPOSITORY / path for path in yaml.safe_load((REPOSITORY / 'model-index.yml').read_text())['Import']]
DENSE = [path for path in METAFILES if path.parent.name != 'imagenet']  # tests/configs/test_imagenet.py has the rest
READMES = [path.with_name('README.md') for path in METAFILES]


def load_models(metafile: Path) -> dict[str, dict]:
    return {model['Name']: model for model in yaml.safe_load(metafile.read_text())['Models']}


def read_metrics(model: dict) -> dict[str, float]:
    return {key: value for result in model.get('Results', []) for key, value in result['Metrics'].items()}


def test_every_config_is_in_exactly_one_metafile() -> None:
    assert set(METAFILES) == set((REPOSITORY / 'configs').glob('*/metafile.yml'))
    configs = [model['Config'] for metafile in METAFILES for model in load_models(metafile).values()]
    leaves = [
        path for folder in ('ade20k', 'coco', 'imagenet') for path in (REPOSITORY / 'configs' / folder).glob('*.py')
    ]
    assert sorted(configs) == sorted(path.relative_to(REPOSITORY).as_posix() for path in leaves)
    for metafile in METAFILES:
        content = yaml.safe_load(metafile.read_text())
        collections = {collection['Name']: collection for collection in content['Collections']}
        assert len(load_models(metafile)) == len(content['Models'])
        assert {model['In Collection'] for model in content['Models']} == set(collections)
        for collection in collections.values():
            assert (REPOSITORY / collection['README']).is_file()
        for model in content['Models']:
            assert model['Config'] == f'configs/{metafile.parent.name}/{model["Name"]}.py'


@pytest.mark.parametrize('metafile', DENSE, ids=lambda path: path.parent.name)
def test_metafile_states_what_the_configs_do(metafile: Path) -> None:
    for name, model in load_models(metafile).items():
        cfg = load_config(str(REPOSITORY / model['Config']))
        gpus, images = map(int, re.search(r'_(\d)xb(\d)-', name).groups())
        assert model['Metadata']['Batch Size'] == gpus * images == cfg.auto_scale_lr.base_batch_size, name
        assert images == cfg.train_dataloader.batch_size, name
        key = 'Iterations' if 'max_iters' in cfg.train_cfg else 'Epochs'
        assert model['Metadata'][key] == cfg.train_cfg.get('max_iters', cfg.train_cfg.get('max_epochs')), name
        family, size = re.search(r'twins-(svt|pcpvt)-([sbl])', name).groups()
        assert model['Metadata']['Architecture'][0] == f'Twins-{family.upper()}-{size.upper()}', name
        arch = {'s': 'small', 'b': 'base', 'l': 'large'}[size]
        assert (cfg.model.backbone.type, cfg.model.backbone.arch) == (f'Twins{family.upper()}Backbone', arch), name


@pytest.mark.parametrize('sizes', ['s', pytest.param('bl', marks=pytest.mark.slow)])
@pytest.mark.parametrize('metafile', DENSE, ids=lambda path: path.parent.name)
def test_metafile_states_the_costs_of_the_models(metafile: Path, sizes: str) -> None:
    for name, model in load_models(metafile).items():
        if not re.search(rf'twins-\w+-[{sizes}]', name):
            continue
        metadata = model['Metadata']
        recipe = next((recipe for recipe in RECIPES if recipe.name == name), None)
        built = recipe.model if recipe else build_model(load_config(str(REPOSITORY / model['Config'])))
        assert metadata['Image Size'] == dict(ade20k='512x512', coco='800x600')[metafile.parent.name]
        total = count(built, *map(int, metadata['Image Size'].split('x'))).total
        assert (metadata['Parameters'], metadata['FLOPs']) == (total.parameters, total.macs), name


def test_metafiles_state_what_is_published() -> None:
    models = {name: model for metafile in DENSE for name, model in load_models(metafile).items()}
    assert {name for name in models if 'calibrated' not in name} == set(RUNS)
    for name, model in models.items():
        assert 'Weights' not in model, f'{name}: there is no checkpoint of our own'
        if name not in RUNS:
            assert 'Results' not in model and 'Results Source' not in model['Metadata'], name
            continue
        run, metadata = RUNS[name], model['Metadata']
        assert metadata['Batch Size'] == run.batch, name
        assert metadata.get('Iterations', 0) == run.schedule.iterations, name
        assert metadata.get('Epochs', 0) == run.schedule.epochs, name
        assert read_metrics(model) == run.metrics, name
        source = f'Twins authors, arXiv:2104.13840, table {run.result.table}' if run.metrics else None
        assert metadata.get('Results Source') == source, name


def test_the_ledger_has_the_costs_of_the_metafiles() -> None:
    page = LEDGER.read_text()
    for name, model in ((name, model) for metafile in DENSE for name, model in load_models(metafile).items()):
        if name in RUNS and RUNS[name].schedule.title in ('UPerNet', 'Semantic FPN', 'Mask R-CNN 1x', 'RetinaNet 1x'):
            metadata = model['Metadata']
            assert f'{metadata["Parameters"] / 1e6:.2f} M, {metadata["FLOPs"] / 1e9:.1f} G' in page, name


@pytest.mark.parametrize(
    'path',
    [pytest.param(path, marks=[pytest.mark.slow] if path == LEDGER else []) for path in PAGES],
    ids=lambda path: path.relative_to(REPOSITORY).as_posix(),
)
def test_the_numbers_of_a_page_are_those_of_the_table(path: Path) -> None:
    """And if any other number stood in their place, this test would fail."""
    texts, page = list(PAGES[path][0]()), path.read_text()
    assert problems(path, page, texts) == []
    part = part_of(page, *PAGES[path][1:])
    start = page.index(part)
    statements = NO_STATEMENT.sub(lambda found: '§' * len(found[0]), part)
    numbers = list(NUMBER.finditer(statements))
    for found in random.Random(0).sample(numbers, min(15, len(numbers))):
        digit = str((int(found[0][-1]) + 1) % 10)
        end = start + found.end()
        assert problems(path, page[: end - 1] + digit + page[end:], texts), page[end - 60 : end + 20]


@pytest.mark.parametrize('path', [LEDGER, ADE20K, COCO, IMAGENET], ids=lambda path: path.parent.name)
def test_each_page_lists_every_published_run_once_and_says_whose_results_they_are(path: Path) -> None:
    links = re.findall(r'\| \[[\w-]+\]\((?:\S*/)?([\w-]+)\.py\) \|', path.read_text())
    dataset = None if path == LEDGER else path.parent.name
    datasets = {name: run.schedule.dataset for name, run in RUNS.items()} | dict.fromkeys(CLASSIFIERS, 'imagenet')
    assert sorted(links) == sorted(name for name, own in datasets.items() if dataset in (None, own))
    text = ' '.join(path.read_text().split())
    assert re.search(r'Nobody has (trained|run) the full schedules here', text)


@pytest.mark.parametrize('path', [LEDGER, *READMES], ids=lambda path: path.parent.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    targets = re.findall(r'\]\((?!https?://)([^)]+)\)', text)
    assert targets
    for target in targets:
        file, _, anchor = target.partition('#')
        linked = path.parent / file if file else path
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r'^#+ (.+)$', linked.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r'[^\w\- ]', '', h.lower()).replace(' ', '-') for h in headings}, target
    references = set(re.findall(r'\]\[([\w-]+)\]', text))
    assert references == set(re.findall(r'^\[([\w-]+)\]: https://', text, re.MULTILINE))
