"""The layout of the package: imports point one way, modules say what they are and have tests, the import is light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'mmtwins'
MODULES = {
    '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path
    for path in sorted(PACKAGE.rglob('*.py'))
}
# A room imports from those before it. The modules beside the rooms that they all may use come first.
ORDER = (
    'installing',
    'masks',
    'markdown',
    'kept_results',
    'plotting',
    'figures',
    'weights',
    'models',
    'dropin',
    'datasets',
    'engine',
    'registration',
    'export',
    'analysis',
    'swapping',
    'inference',
    'benchmark',
    'study',
    'demo',
    'page',
    'commands',
    '__main__',
)
FRAMEWORKS = {'mmseg', 'mmdet', 'mmpretrain', 'timm'}
# What `import mmtwins` must do without: everything that torch and MMEngine do not need themselves.
HEAVY = (
    'mmcv',
    'mmseg',
    'mmdet',
    'mmpretrain',
    'timm',
    'pycocotools',
    'pydantic',
    'safetensors',
    'gradio',
    'onnx',
    'huggingface_hub',
)
# Their behaviour is tested with that of the modules that use them.
TESTED_ELSEWHERE = {
    'mmtwins.models.block': 'tests/models/test_fast_path.py',
    'mmtwins.__main__': 'tests/commands/test_entry.py',
    'mmtwins.commands.table': 'tests/commands/test_entry.py',
    'mmtwins.commands.model_cost': 'tests/tools/test_get_complexity.py',
    'mmtwins.commands.attention_cost': 'tests/tools/test_gsa_cost.py',
    'mmtwins.commands.cost': 'tests/tools/test_gsa_cost.py',
    'mmtwins.commands.attention': 'tests/tools/test_visualize_attention.py',
    'mmtwins.commands.predict': 'tests/tools/test_infer.py',
    'mmtwins.inference.classifying': 'tests/tools/test_classifiers.py',
    'mmtwins.commands.train': 'tests/tools/test_train_and_test.py',
    'mmtwins.commands.test': 'tests/tools/test_train_and_test.py',
    **{
        f'mmtwins.commands.{name}': f'tests/tools/test_{name}.py'
        for name in ('app', 'benchmark', 'check_data', 'check_run', 'demo')
    },
}


def imports_of(name: str, top_level_only: bool = False) -> Iterator[str]:
    """The modules that a module imports, by absolute name; inside functions too, unless told otherwise."""
    path = MODULES[name]
    tree = ast.parse(path.read_text())
    package = name if path.name == '__init__.py' else name.rpartition('.')[0]
    for node in _top_level(tree) if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join(package.split('.')[: len(package.split('.')) - node.level + 1]) if node.level else ''
            source = '.'.join(part for part in (base, node.module) if part)
            for alias in node.names:
                yield f'{source}.{alias.name}' if f'{source}.{alias.name}' in MODULES else source


def _top_level(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run at import, those under ``if`` and ``try`` included."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from _top_level(node)


def room_of(name: str) -> str:
    parts = name.split('.')
    return parts[1] if len(parts) > 1 else ''


@pytest.mark.parametrize('name', [name for name in MODULES if name != 'mmtwins'])
def test_imports_between_rooms_point_one_way(name: str) -> None:
    room = room_of(name)
    assert room in ORDER, f'{room} is a new room: give it a place in ORDER'
    for imported in imports_of(name):
        other = room_of(imported)
        if imported.split('.')[0] == 'mmtwins' and other not in ('', room):
            assert ORDER.index(other) < ORDER.index(room), f'{name} imports {imported}'


def test_no_module_imports_itself_through_others() -> None:
    graph = {name: {i for i in imports_of(name) if i in MODULES and i != name} for name in MODULES if name != 'mmtwins'}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f'a circle: {" -> ".join([*path[path.index(name) :], name])}'
        if name not in done:
            for imported in graph.get(name, ()):
                visit(imported, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize('name', MODULES)
def test_frameworks_are_imported_when_needed_and_tools_never(name: str) -> None:
    assert not FRAMEWORKS & {imported.split('.')[0] for imported in imports_of(name, top_level_only=True)}
    assert not {'tools', 'tests'} & {imported.split('.')[0] for imported in imports_of(name)}


@pytest.mark.parametrize('name', MODULES)
def test_a_module_says_what_it_is_and_can_be_read_in_one_sitting(name: str) -> None:
    source = MODULES[name].read_text()
    assert ast.get_docstring(ast.parse(source)), f'{name} has no docstring'
    if room_of(name) != 'models':
        assert source.count('\n') <= 360, f'{name} is long: split it by concern'


@pytest.mark.parametrize('name', [name for name, path in MODULES.items() if path.name != '__init__.py'])
def test_a_module_has_its_test_file(name: str) -> None:
    *rooms, module = name.split('.')[1:]
    path = ROOT / TESTED_ELSEWHERE.get(name, '/'.join(['tests', *rooms, f'test_{module}.py']))
    assert path.is_file(), f'{name} needs {path.relative_to(ROOT)}'
    assert 'def test_' in path.read_text()


def test_a_tool_has_its_test_file() -> None:
    others = {'train': 'tools/test_train_and_test', 'test': 'tools/test_train_and_test'}
    others |= {'convert_checkpoint': 'weights/test_formats', 'export_onnx': 'commands/test_export'}
    others |= {'setup_environment': 'project/test_setup_environment', 'setup_mmcv': 'project/test_setup_mmcv'}
    others |= {'setup_steps': 'project/test_setup_environment'}
    for path in (ROOT / 'tools').glob('*.py'):
        test = ROOT / 'tests' / f'{others.get(path.stem, f"tools/test_{path.stem}")}.py'
        assert test.is_file(), f'{path.name} needs {test.relative_to(ROOT)}'


def test_reading_a_command_line_needs_neither_torch_nor_mmengine() -> None:
    code = """
import sys
sys.argv, sys.orig_argv = ['-m', 'train', '--help'], [sys.executable, '-m', 'mmtwins', 'train', '--help']
for name in ('torch', 'mmengine', 'numpy', 'cv2', 'yaml'):
    sys.modules[name] = None
from mmtwins.commands.entry import main
from mmtwins.commands.parsing import parser_of
from mmtwins.commands.table import COMMANDS
import importlib.util
for name, command in COMMANDS.items():
    if importlib.util.find_spec(f'mmtwins.commands.{command.module}'):
        parser_of(name)
main(['train', '--help'])
"""
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'default_scope decides' in done.stdout


def without(packages: tuple[str, ...]) -> str:
    """Code that makes packages missing; a finder that raises would make looking for them an error, as torch 2.1 does."""
    return f"""
class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.split('.')[0] in {packages} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
"""


def test_importing_the_package_needs_torch_and_mmengine_alone() -> None:
    """And loads nothing that they do not load, but our own hooks, models and weights."""
    code = f"""
import sys

{without(HEAVY)}
import mmengine.hooks, mmengine.runner, torch.utils.checkpoint
before = set(sys.modules)
import mmtwins
assert 'mmengine.infer' not in sys.modules, 'which loads rich and more'
print('outside', *sorted({{name.split('.')[0] for name in set(sys.modules) - before}} - set(sys.stdlib_module_names)))
print('inside', *sorted(name.split('.')[1] for name in sys.modules if name.count('.') == 1 and name.startswith('mmtwins.')))
"""
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outside, inside = done.stdout.splitlines()
    assert outside.removesuffix(' numpy') == 'outside mmtwins', 'numpy._core of NumPy 1 is a folder of its own'
    assert inside == 'inside datasets engine installing models registration weights'


def test_the_drop_in_needs_torch_alone() -> None:
    """Weights of .pth files included; what is registered with MMEngine is missing with a reason."""
    code = f"""
import sys, tempfile

{without((*HEAVY, 'mmengine', 'addict', 'yaml', 'cv2', 'rich', 'termcolor'))}
import torch
import mmtwins
from mmtwins.dropin import gvt, segmentation_gvt
tiny = dict(embed_dims=(8, 16), depths=(2, 1), num_heads=(1, 2), mlp_ratios=(2, 2), sr_ratios=(8, 4), wss=(7, 7))
model = mmtwins.create_model('twins_svt_small', **tiny).eval()
with tempfile.NamedTemporaryFile(suffix='.pth') as file:
    torch.save(model.state_dict(), file.name)
    other = gvt.alt_gvt_large(checkpoint_path=file.name, **tiny).eval()
x = torch.randn(1, 3, 32, 40)
assert torch.equal(model(x), other(x))
assert len(mmtwins.create_model('twins_svt_small', features_only=True, **tiny)(x)) == 2
try:
    mmtwins.TwinsSVTBackbone
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mmtwins has no 'TwinsSVTBackbone' here: all that it registers needs MMEngine")
