"""The documentation's site: all pages are in its navigation, each public name is in its reference, links lead to files."""

import importlib
import inspect
import os
import pkgutil
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
from filelock import FileLock
from page.browser import Browser, start_browser

import mmtwins

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted(path for pattern in ('*.md', 'docs/*.md', 'configs/*/*.md') for path in REPOSITORY.glob(pattern))
NAMES = [path.relative_to(REPOSITORY).with_suffix('').as_posix() for path in PAGES]
SIDEBAR = '.sidebar-tree a.reference'


@pytest.fixture(scope='module')
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    for library in ('sphinx', 'furo', 'myst_nb', 'sphinx_copybutton'):
        pytest.importorskip(library)
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if 'PYTEST_XDIST_WORKER' in os.environ else folder  # of this run, for all of its workers
    command = [
        sys.executable,
        '-m',
        'sphinx',
        '--quiet',
        '--fail-on-warning',
        '--keep-going',
        '-d',
        str(folder / 'trees'),
    ]
    env = {**os.environ, 'PYTHONPATH': str(REPOSITORY), 'SOURCE_URL': ''}
    with FileLock(folder / 'site.lock'):
        if not (folder / 'site' / 'index.html').exists():
            built = subprocess.run(
                [*command, '-c', 'docs', '.', str(folder / 'site')],
                cwd=REPOSITORY,
                env=env,
                capture_output=True,
                text=True,
            )
            assert built.returncode == 0, built.stderr[-4000:]
    return folder / 'site'


@pytest.fixture(scope='module')
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    with start_browser(tmp_path_factory.mktemp('browser')) as started:
        yield started


def public_objects() -> dict[str, object]:
    """The public classes and functions of all rooms, by their full names."""
    found = {}
    for module in pkgutil.walk_packages(mmtwins.__path__, 'mmtwins.'):
        if not module.name.endswith('__main__'):
            for name, value in vars(importlib.import_module(module.name)).items():
                is_own = getattr(value, '__module__', '') == module.name
                if not name.startswith('_') and is_own and (inspect.isclass(value) or inspect.isfunction(value)):
                    found[f'{module.name}.{name}'] = value
    return found


@pytest.mark.parametrize('page', PAGES, ids=NAMES)
def test_links_of_pages_lead_to_files(page: Path) -> None:
    text = re.sub(r'```.*?```', '', page.read_text(), flags=re.DOTALL)
    for target in re.findall(r'\]\((?!https?://|#|mailto:)([^)#\s]+)', text):
        assert (page.parent / target).exists(), target


def test_every_page_is_in_the_navigation_and_new_ones_come_by_themselves() -> None:
    pytest.importorskip('sphinx')
    conf = runpy.run_path(str(REPOSITORY / 'docs' / 'conf.py'))
    pages = {*NAMES, 'docs/tour', 'docs/api/index', 'docs/api/mmtwins.models', 'docs/added', 'configs/added/README'}
    text = ['# First page\n']
    conf['add_navigation'](SimpleNamespace(env=SimpleNamespace(found_docs=pages)), 'README', text)
    chapters = re.findall(r'```\{toctree\}\n:hidden:\n:caption: ([\w ]+)\n\n(.*?)```', text[0], re.DOTALL)
    listed = [page for _, lines in chapters for page in lines.split()]
    assert sorted(listed) == sorted(pages - {'README', 'docs/api/mmtwins.models'})
    assert dict(chapters)['More'].split()[0] == 'docs/added'
    assert 'configs/added/README' in dict(chapters)['Recipes'].split()


def test_links_to_code_lead_to_the_code_host_if_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    addnodes, utils = pytest.importorskip('sphinx.addnodes'), pytest.importorskip('docutils.utils')
    app = SimpleNamespace(env=SimpleNamespace(docname='docs/gsa', doc2path=lambda name: REPOSITORY / f'{name}.md'))
    for url, number in (('', 0), ('https://host.example/owner/mmtwins/blob/main/', 1)):
        monkeypatch.setenv('SOURCE_URL', url)
        conf = runpy.run_path(str(REPOSITORY / 'docs' / 'conf.py'))
        document = utils.new_document('docs/gsa')
        document += addnodes.download_reference('', 'a recipe', reftarget='../configs/coco/a.py')
        conf['link_files'](app, document)
        assert document.astext() == 'a recipe'
        links = [node['refuri'] for node in document.findall() if 'refuri' in getattr(node, 'attributes', ())]
        assert links == ['https://host.example/owner/mmtwins/blob/main/configs/coco/a.py'] * number
        assert [name for name in conf['extensions'] if 'linkcode' in name] == ['sphinx.ext.linkcode'] * number
    assert conf['linkcode_resolve']('py', dict(module='mmtwins.models.backbone')).endswith(
        '/mmtwins/models/backbone.py'
    )
    assert conf['linkcode_resolve']('py', dict(module='mmtwins.models')).endswith('/main/mmtwins/models/__init__.py')


def test_a_docstring_shows_its_source_and_its_results_as_written() -> None:
    pytest.importorskip('sphinx')
    conf = runpy.run_path(str(REPOSITORY / 'docs' / 'conf.py'))
    lines = ['One line.', '', 'Returns:', '    (N,), or None where unknown: no log.', '', 'Source: CPVT, section 3.']
    conf['adapt_docstring'](None, '', '', None, None, lines)
    assert lines[3:] == ['    : (N,), or None where unknown: no log.', '', '**Source:** CPVT, section 3.']


@pytest.mark.slow
def test_every_public_name_is_in_the_reference(site: Path) -> None:
    text = ''.join(path.read_text() for path in (site / 'docs' / 'api').glob('*.html'))
    described = set(re.findall(r'<dt class="sig[^>]* id="([\w.]+)"', text))
    wanted = public_objects()
    assert len(wanted) > 300
    assert set(wanted) <= described, sorted(set(wanted) - described)
    names = (site / 'docs' / 'api' / 'index.html').read_text()
    for name in mmtwins.__all__:
        value = getattr(mmtwins, name)
        assert f'#{value.__module__}.{value.__qualname__}"' in names, name
    backbone = (site / 'docs' / 'api' / 'mmtwins.models.html').read_text()
    for part in ('Parameters', 'Raises', 'Source:', 'window_padding'):
        assert part in backbone


@pytest.mark.slow
def test_links_and_pictures_of_the_site_exist(site: Path) -> None:
    pages = list(site.rglob('*.html'))
    assert {site / f'{name}.html' for name in [*NAMES, 'docs/tour', 'index']} <= {*pages}
    ids = {page: set(re.findall(r'\bid="([^"]+)"', page.read_text())) for page in pages}
    for page in pages:
        for link in re.findall(r'(?:href|src)="([^"]+)"', page.read_text()):
            parts = urlsplit(link)
            if not parts.scheme and not parts.netloc:
                target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
                assert target.is_file(), f'{page.relative_to(site)}: {link}'
                if target.suffix == '.html' and parts.fragment and target in ids:
                    assert unquote(parts.fragment) in ids[target], f'{page.relative_to(site)}: {link}'


@pytest.mark.slow
def test_a_person_finds_pages_by_navigation_and_search(site: Path, browser: Browser) -> None:
    browser.driver.get((site / 'index.html').as_uri())
    links = {link.get_property('textContent'): link.get_property('href') for link in browser.find(SIDEBAR)}
    assert {'Training', 'Fine-tuning on your own data', 'Commands', 'API reference', 'Contributing'} <= set(links)
    for words, expected in (('TwinsSVTBackbone', 'docs/api/mmtwins.models'), ('reduce_zero_label', 'docs/finetuning')):
        browser.driver.get(f'{(site / "search.html").as_uri()}?q={words}')
        browser.wait(lambda: browser.find('#search-results li a'))
        browser.wait(lambda: 'finished' in browser.text('#search-results'))
        assert any(expected in link.get_property('href') for link in browser.find('#search-results li a'))
    pictures = 'return [...document.images].filter((one) => one.checkVisibility()).map((one) => one.naturalWidth)'
    browser.driver.get((site / 'docs' / 'gsa.html').as_uri())
    assert len(browser.run(pictures)) >= 3 and all(browser.run(pictures))


@pytest.mark.slow
def test_pages_fit_a_phone_and_are_dark_at_night(site: Path, browser: Browser) -> None:
    browser.phone()
    browser.dark(True)
    for page in sorted(path for path in site.rglob('*.html') if '_modules' not in path.parts):
        browser.driver.get(page.as_uri())
        assert browser.run('return document.documentElement.scrollWidth') <= 390, page.relative_to(site)
        assert browser.run('window.scrollTo(500, 0); return window.scrollX') == 0, page.relative_to(site)
        texts = browser.contrast('article p, article h1')
        assert texts or page.name == 'search.html'
        assert all(contrast > 4.4 for _, contrast in texts), page.relative_to(site)
        light = browser.run('return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)')
        assert max(light) < 60, page.relative_to(site)
    browser.driver.get((site / 'docs' / 'commands.html').as_uri())
    (table,) = browser.find('.table-wrapper')
    assert table.get_property('scrollWidth') > table.get_property('clientWidth') <= 390  # it scrolls inside
    browser.find('header label[for="__navigation"]')[0].click()
    link = browser.wait(lambda: next((one for one in browser.find(SIDEBAR) if one.text == 'Training'), None))
    browser.wait(link.is_displayed)
