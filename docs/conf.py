"""Settings of the site, which `make docs` builds from the repository's Markdown pages, the notebook and the docstrings.

The source folder is the repository, so that a relative link of a page leads to the same page on a code host and on the site.
"""

import inspect
import os
import re
import shutil
import sys
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import download_reference
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
API = ROOT / 'docs' / 'api'
SOURCE_URL = os.environ.get('SOURCE_URL', '').rstrip('/')  # such as https://host/owner/mmtwins/blob/main
sys.path.insert(0, str(ROOT))  # the checkout's docstrings, whatever is installed

# The chapters of the site. Pages that are not named here come by themselves: recipe folders under Recipes, others under More.
CHAPTERS = {
    'Start': ['docs/installation', 'docs/tour', 'docs/commands', 'docs/models'],
    'Train': ['docs/data', 'docs/training', 'docs/finetuning', 'docs/migration'],
    'Use a model': ['docs/inference', 'docs/export', 'docs/performance'],
    'Understand it': ['docs/gsa', 'docs/attention', 'docs/reproduction'],
    'Recipes': ['configs/ade20k/README', 'configs/coco/README'],
    'Reference': ['docs/api/index', 'CONTRIBUTING', 'CHANGELOG'],
    'More': [],
}

project, author = 'mmtwins', 'The mmtwins contributors'
copyright = author
version = re.search(r"^__version__ = '(.+)'", (ROOT / 'mmtwins' / '__init__.py').read_text(), re.MULTILINE).group(1)
root_doc = 'README'
include_patterns = ['*.md', 'docs/**', 'configs/*/README.md']
exclude_patterns = [*(p.name for p in ROOT.iterdir() if p.is_dir() and p.name not in ('docs', 'configs'))]
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx_copybutton']
if SOURCE_URL:
    extensions.append('sphinx.ext.linkcode')

myst_heading_anchors = 4
myst_enable_extensions = []
nb_execution_mode = 'off'  # the stored outputs are shown; tests/project/test_tour.py executes the notebook
nb_merge_streams = True

autodoc_default_options = {
    'members': True,
    'ignore-module-all': True,
    'undoc-members': True,
    'show-inheritance': True,
    'member-order': 'bysource',
}
autodoc_typehints = 'signature'
autodoc_inherit_docstrings = False  # torch's texts have references that only its own site resolves
autodoc_mock_imports = [name for name in ('mmcv', 'pycocotools', 'pydantic') if not find_spec(name)]
toc_object_entries_show_parents = 'hide'
napoleon_numpy_docstring = False
napoleon_custom_sections = ['Source']
python_use_unqualified_type_names = True

html_theme = os.environ.get('THEME', 'furo')
html_title = f'mmtwins {version}'
html_show_copyright = False
copybutton_exclude = '.linenos, .gp, .go'


def write_api_pages(app: Sphinx) -> None:
    """One page for each room of the package, with all of its modules, and one for the names of ``mmtwins`` itself."""
    import mmtwins

    shutil.rmtree(API, ignore_errors=True)
    API.mkdir()
    package = ROOT / 'mmtwins'
    rooms = sorted(path.parent.name for path in package.glob('*/__init__.py'))
    for room in rooms:
        modules = [f'mmtwins.{room}.{path.stem}' for path in sorted((package / room).glob('[!_]*.py'))]
        write_api_page(f'mmtwins.{room}', '', [f'mmtwins.{room}'], modules)
    text = (
        '.. automodule:: mmtwins\n   :no-members:\n\n.. list-table:: Names of ``mmtwins`` itself\n   :widths: auto\n\n'
    )
    for name in sorted(mmtwins.__all__, key=str.lower):
        value = getattr(mmtwins, name)
        first_line = (value.__doc__ or '').strip().partition('\n')[0]
        text += f'   * - :py:obj:`{name} <{value.__module__}.{value.__qualname__}>`\n     - {first_line}\n'
    text += '\n.. toctree::\n   :maxdepth: 1\n\n' + ''.join(f'   mmtwins.{room}\n' for room in rooms)
    modules = [f'mmtwins.{path.stem}' for path in sorted(package.glob('[!_]*.py'))]
    write_api_page('index', f'API reference\n=============\n\n{text}\n', [], modules)


def write_api_page(name: str, text: str, packages: list[str], modules: list[str]) -> None:
    for character, titles in (('=', packages), ('-', modules)):
        for title in titles:
            heading = title.replace('.', '.\N{ZERO WIDTH SPACE}')  # may break there on a phone
            text += f'{heading}\n{character * len(heading)}\n\n.. automodule:: {title}\n\n'
    (API / f'{name}.rst').write_text(text)


def skip_data(app: Sphinx, what: str, name: str, value: object, skip: bool, options: object) -> bool | None:
    """Leave constants and fields out: docstrings describe them."""
    shown = inspect.isclass(value) or inspect.isroutine(value) or isinstance(value, property | cached_property)
    return None if shown else True


def add_navigation(app: Sphinx, docname: str, source: list[str]) -> None:
    """Append the chapters to the first page."""
    if docname != root_doc:
        return
    chapters = {chapter: [page for page in pages if page in app.env.found_docs] for chapter, pages in CHAPTERS.items()}
    for page in sorted(app.env.found_docs.difference([root_doc], *chapters.values())):
        if not page.startswith('docs/api/'):
            chapters['Recipes' if page.startswith('configs/') else 'More'].append(page)
    for chapter, pages in chapters.items():
        source[0] += '\n'.join(['', '```{toctree}', ':hidden:', f':caption: {chapter}', '', *pages, '```', ''])


def link_folders(app: Sphinx, docname: str, source: list[str]) -> None:
    """A link to a folder leads to its README.md, as a code host shows it."""
    folder = (ROOT / f'{docname}.md').parent
    source[0] = re.sub(
        r'(?<=\]\()([\w./-]+/)(?=\))',
        lambda match: f'{match[1]}README.md' if (folder / match[1] / 'README.md').exists() else match[1],
        source[0],
    )


def link_files(app: Sphinx, doctree: nodes.document) -> None:
    """Links to files that are no pages lead to the code host, if SOURCE_URL says where it shows them; else to a copy."""
    for node in list(doctree.findall(download_reference)):
        path = (Path(app.env.doc2path(app.env.docname)).parent / node['reftarget']).resolve().relative_to(ROOT)
        if path.suffix == '.html':  # a page of its own, see copy_own_pages
            node.replace_self(nodes.reference('', '', *node.children, refuri=node['reftarget']))
        elif SOURCE_URL:
            node.replace_self(nodes.reference('', '', *node.children, refuri=f'{SOURCE_URL}/{path.as_posix()}'))


def linkcode_resolve(domain: str, info: dict[str, str]) -> str:
    """Where the code host shows the module that something is defined in."""
    path = info['module'].replace('.', '/')
    return f'{SOURCE_URL}/{path}.py' if (ROOT / f'{path}.py').exists() else f'{SOURCE_URL}/{path}/__init__.py'


def adapt_docstring(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Mark a source like Args and Returns; keep Napoleon from reading a result's text up to a colon as its type."""
    text = re.sub(r'^Source: ', '**Source:** ', '\n'.join(lines), flags=re.MULTILINE)
    lines[:] = re.sub(r'^( *(?:Returns|Yields):\n +)', r'\1: ', text, flags=re.MULTILINE).split('\n')


def copy_first_page(app: Sphinx, exception: Exception | None) -> None:
    """README.html is index.html, too, which web servers show for the folder."""
    if app.builder.format == 'html' and not exception:
        shutil.copy(app.outdir / f'{root_doc}.html', app.outdir / 'index.html')


def copy_own_pages(app: Sphinx, exception: Exception | None) -> None:
    """Copy the folders of docs/ that are pages themselves, in HTML; their links to other pages lead to these on the site."""
    if app.builder.format == 'html' and not exception:
        for page in ROOT.glob('docs/*/index.html'):
            folder = Path(app.outdir) / page.parent.relative_to(ROOT)
            shutil.copytree(page.parent, folder, dirs_exist_ok=True)
            text = re.sub(r'(href="[\w./-]+)\.md"', r'\1.html"', page.read_text())
            (folder / page.name).write_text(text)


def setup(app: Sphinx) -> None:
    app.connect('builder-inited', write_api_pages)
    app.connect('autodoc-skip-member', skip_data)
    app.connect('autodoc-process-docstring', adapt_docstring, priority=400)  # Napoleon has 500
    app.connect('doctree-read', link_files)
    app.connect('source-read', link_folders)
    app.connect('source-read', add_navigation)
    app.connect('build-finished', copy_first_page)
    app.connect('build-finished', copy_own_pages)
