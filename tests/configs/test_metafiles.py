"""Metafiles, reproduction ledger and configs' READMEs: every config once, the same numbers everywhere, with their source."""

import json
import re
from pathlib import Path

import pytest
import yaml

from mmtwins.engine.config import load_config

REPOSITORY = Path(__file__).parents[2]
LEDGER = REPOSITORY / 'docs' / 'reproduction.md'
METAFILES = [REPOSITORY / path for path in yaml.safe_load((REPOSITORY / 'model-index.yml').read_text())['Import']]
READMES = [path.with_name('README.md') for path in METAFILES]
METRICS = ('mIoU', 'mIoU(ms+flip)', 'box AP', 'mask AP')
RECIPES = {
    'UPerNet': 'ade20k/upernet_twins-svt-s_8xb2-160k_ade20k-512x512.py',
    'Semantic FPN': 'ade20k/fpn_twins-svt-s_4xb4-80k_ade20k-512x512.py',
    'Mask R-CNN 1x': 'coco/mask-rcnn_twins-svt-s_fpn_8xb2-1x_coco.py',
    'RetinaNet 1x': 'coco/retinanet_twins-svt-s_fpn_8xb2-1x_coco.py',
    'Mask R-CNN 3x': 'coco/mask-rcnn_twins-svt-s_fpn_8xb2-amp-ms-crop-3x_coco.py',
    'RetinaNet 3x': 'coco/retinanet_twins-svt-s_fpn_8xb2-ms-crop-3x_coco.py',
}


def load_models(metafile: Path) -> dict[str, dict]:
    return {model['Name']: model for model in yaml.safe_load(metafile.read_text())['Models']}


def published_models(metafile: Path) -> dict[str, dict]:
    """The models of a metafile but those of our own making, which nobody has published."""
    return {name: model for name, model in load_models(metafile).items() if 'calibrated' not in name}


def read_tables(markdown: str) -> list[dict[str, str]]:
    """All rows of all tables, each as {heading: cell}."""
    rows, headings = [], None
    for line in markdown.splitlines():
        if not line.startswith('|'):
            headings = None
            continue
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        if headings is None:
            headings = cells
        elif not set(line) <= set('|-'):
            assert len(cells) == len(headings), line
            rows.append(dict(zip(headings, cells)))
    return rows


def read_results(path: Path) -> dict[str, dict[str, str]]:
    """The rows of the tables whose first cell links a config, by the config's name."""
    results = {}
    for row in read_tables(path.read_text()):
        if link := re.fullmatch(r'\[.+\]\((.*?([\w-]+)\.py)\)', next(iter(row.values()))):
            assert (path.parent / link[1]).is_file(), link[1]
            assert link[2] not in results, link[2]
            results[link[2]] = row
    return results


def read_metrics(model: dict) -> dict[str, float]:
    return {key: value for result in model.get('Results', []) for key, value in result['Metrics'].items()}


def test_every_config_is_in_exactly_one_metafile() -> None:
    assert set(METAFILES) == set((REPOSITORY / 'configs').glob('*/metafile.yml'))
    configs = [model['Config'] for metafile in METAFILES for model in load_models(metafile).values()]
    leaves = [path for folder in ('ade20k', 'coco') for path in (REPOSITORY / 'configs' / folder).glob('*.py')]
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


@pytest.mark.parametrize('metafile', METAFILES, ids=lambda path: path.parent.name)
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


@pytest.mark.parametrize('metafile', METAFILES, ids=lambda path: path.parent.name)
def test_published_numbers_are_the_same_everywhere(metafile: Path) -> None:
    models = published_models(metafile)
    ledger, readme = read_results(LEDGER), read_results(metafile.with_name('README.md'))
    assert set(readme) == set(models) <= set(ledger)
    for name, model in models.items():
        metrics = read_metrics(model)
        assert set(metrics) <= set(METRICS), name
        for row in (ledger[name], readme[name]):
            numbers = {key: float(row[key]) for key in METRICS if row.get(key, 'not published') != 'not published'}
            assert numbers == metrics, name


def test_the_ledger_lists_no_other_config() -> None:
    assert set(read_results(LEDGER)) == {name for metafile in METAFILES for name in published_models(metafile)}


@pytest.mark.parametrize('metafile', METAFILES, ids=lambda path: path.parent.name)
def test_every_published_number_has_a_source_and_is_not_called_ours(metafile: Path) -> None:
    ledger = read_results(LEDGER)
    for name, model in load_models(metafile).items():
        assert 'Weights' not in model, f'{name}: there is no checkpoint of our own'
        assert name in published_models(metafile) or 'Results' not in model, name
    for name, model in published_models(metafile).items():
        source = model['Metadata'].get('Results Source')
        assert bool(source) == ('Results' in model), name
        assert re.fullmatch(r'table \d', ledger[name]['source']), name
        if source:
            assert source == f'Twins authors, arXiv:2104.13840, {ledger[name]["source"]}', name
    for path in (metafile.with_name('README.md'), LEDGER):
        text = ' '.join(path.read_text().split())
        assert re.search(r'Nobody has (trained|run) the full schedules here', text), path


@pytest.mark.parametrize('recipe', RECIPES)
def test_the_ledgers_column_ours_is_what_the_config_says(recipe: str) -> None:
    (section,) = re.findall(rf'^## {recipe}\b.*?(?=^## )', LEDGER.read_text(), re.DOTALL | re.MULTILINE)
    ours = {re.sub(r' \[\d\]$', '', row['setting']): row['ours'] for row in read_tables(section)}
    cfg = load_config(str(REPOSITORY / 'configs' / RECIPES[recipe]))
    optim = cfg.optim_wrapper

    def number(text: str) -> float:
        return float(re.match(r'[\d.e-]+', text)[0])

    assert number(ours['learning rate']) == optim.optimizer.lr
    assert number(ours['weight decay']) == optim.optimizer.weight_decay
    assert set(re.findall(r'`(\w+)`', ours['weight decay'])) == set(
        optim.get('paramwise_cfg', {}).get('custom_keys', {})
    )
    assert number(ours['total batch']) == cfg.auto_scale_lr.base_batch_size
    assert (ours['gradient clipping'] == 'none') == (optim.get('clip_grad') is None)
    precision = ours.get('precision', 'float32')
    assert (precision == 'float32') == (optim.type == 'OptimWrapper')
    assert ours.get('drop path', ours.get('drop path, S and SVT-B', ours.get('drop path, S and B')))[:3] == str(
        cfg.model.backbone.drop_path_rate
    )
    if 'epochs, steps' in ours:
        epochs, *steps = map(int, re.findall(r'\d+', ours['epochs, steps']))
        assert epochs == cfg.train_cfg.max_epochs
        assert steps == cfg.param_scheduler[1].milestones
    if recipe.endswith('3x'):
        assert precision == ('float32' if 'RetinaNet' in recipe else f'mixed, loss scale {optim.loss_scale:.0f}')


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


def test_the_ledgers_snippet_reads_a_log(tmp_path: Path, monkeypatch, capsys) -> None:
    (snippet,) = re.findall(r'```python\n(.*?)```', LEDGER.read_text(), re.DOTALL)
    entries = [{'lr': 1.9594e-6, 'decode.loss_ce': 4.0886, 'step': 50}, {'decode.loss_ce': 3.96, 'step': 100}]
    log = tmp_path / 'scalars.json'
    log.write_text('\n'.join(map(json.dumps, [*entries, {'mIoU': 1.0, 'step': 500}])))
    monkeypatch.setattr('sys.argv', ['', str(log)])
    exec(snippet, {})
    assert capsys.readouterr().out == '   50  lr 1.96e-06  decode loss 4.09\n'
