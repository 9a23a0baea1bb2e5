"""Continuous integration and images: what they name exists, and the matrix has every Python that the package admits."""

import json
import re
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (REPOSITORY / '.github/workflows').glob('*.yml')}
SETUP = yaml.safe_load((REPOSITORY / '.github/actions/setup/action.yml').read_text())
CELLS = json.loads((REPOSITORY / '.github/matrix.json').read_text())
DOCKERFILE = (REPOSITORY / 'Dockerfile').read_text()
TARGETS = set(re.findall(r'^([\w-]+):', (REPOSITORY / 'Makefile').read_text(), re.MULTILINE))


def steps(name: str) -> list[dict]:
    return [step for job in WORKFLOWS[name]['jobs'].values() for step in job['steps']]


def commands(name: str) -> str:
    own = SETUP['runs']['steps'] if any(step.get('uses', '').startswith('./') for step in steps(name)) else []
    return '\n'.join(step['run'] for step in [*steps(name), *own] if 'run' in step)


def test_the_matrix_has_every_python_and_both_stacks() -> None:
    admitted = set(re.findall(r"Python :: (3\.\d+)'", (REPOSITORY / 'setup.py').read_text()))
    assert admitted and admitted <= {cell['python'] for cell in CELLS}
    assert {cell['stack'] for cell in CELLS} == {'openmmlab', 'onedl'}
    assert {cell['target'] for cell in CELLS} == {'test', 'test-all'} <= TARGETS
    assert len({tuple(cell.values()) for cell in CELLS}) == len(CELLS)
    assert all(re.fullmatch(r'\d+\.\d+\.\d+', cell['torch']) for cell in CELLS)


@pytest.mark.parametrize('name', ['tests', 'mmcv'])
def test_the_suite_and_the_nightly_build_run_in_each_cell(name: str) -> None:
    """Both read the one matrix and set up in the same way."""
    matrix, cells = WORKFLOWS[name]['jobs'].values()
    assert 'jq -c . .github/matrix.json' in matrix['steps'][-1]['run']
    assert cells['strategy']['matrix'] == dict(cell='${{ fromJSON(needs.matrix.outputs.cells) }}')
    (setup,) = (step for step in cells['steps'] if step.get('uses') == './.github/actions/setup')
    fields = set(re.findall(r'matrix\.cell\.(\w+)', json.dumps(cells)))
    assert {'python', 'torch', 'stack'} <= fields <= set(CELLS[0])
    assert set(setup['with']) <= set(SETUP['inputs'])
    assert (setup['with'].get('build') == 'true') == (name == 'mmcv')


def test_the_cached_wheel_is_named_after_all_that_its_code_depends_on() -> None:
    restore, save = (step for step in SETUP['runs']['steps'] if 'actions/cache' in step.get('uses', ''))
    assert restore['with'] == save['with'] | dict(key='${{ steps.versions.outputs.key }}')
    (versions,) = (step for step in SETUP['runs']['steps'] if step.get('id') == 'versions')
    for part in ('inputs.stack', 'inputs.python', 'inputs.torch', 'runner.os', 'runner.arch'):
        assert part in versions['env']['KEY']
    assert 'requirements/mmcv.txt' in versions['env']['SOURCES']
    assert 'on' in WORKFLOWS['mmcv'] or 'schedule' in WORKFLOWS['mmcv'][True]  # YAML 1.1 reads `on` as true


@pytest.mark.parametrize('name', sorted(WORKFLOWS))
def test_commands_of_workflows_name_what_exists(name: str) -> None:
    for target in re.findall(r'\bmake ([a-z-]+)', commands(name)):
        assert target in TARGETS, target
    for path in re.findall(r'requirements/\w+\.txt', commands(name)):
        assert (REPOSITORY / path).is_file(), path
    assert WORKFLOWS[name]['permissions'] == dict(contents='read')
    assert all(isinstance(step.get('run', step.get('uses')), str) for step in steps(name))


def test_the_site_is_built_with_warnings_as_errors_and_published_only_where_wanted() -> None:
    assert '--fail-on-warning' in commands('docs')
    assert "vars.PAGES == 'true'" in WORKFLOWS['docs']['jobs']['deploy']['if']


def test_images_are_for_cpus_and_gpus_and_run_the_demo() -> None:
    stages = set(re.findall(r'^FROM \S+ AS (\S+)$', DOCKERFILE, re.MULTILINE))
    assert stages == {'base-cpu', 'base-cuda'} and 'FROM base-${DEVICE}' in DOCKERFILE
    assert re.search(r'^ARG DEVICE=cpu$', DOCKERFILE, re.MULTILINE)
    (command,) = re.findall(r'^CMD (.+)$', DOCKERFILE, re.MULTILINE)
    assert json.loads(command) == ['make', 'demo']
    documented = re.search(r'^docker build .+$', (REPOSITORY / 'README.md').read_text(), re.MULTILINE)
    assert documented and documented[0] in DOCKERFILE  # its first lines say the same
    folder = re.search(r'^WORKDIR (.+)$', DOCKERFILE, re.MULTILINE)
    assert folder and f':{folder[1]}/work_dirs" mmtwins' in documented[0]
    container = json.loads((REPOSITORY / '.devcontainer/devcontainer.json').read_text())
    assert container['workspaceFolder'] == folder[1]
    assert (REPOSITORY / '.devcontainer' / container['build']['dockerfile']).resolve() == REPOSITORY / 'Dockerfile'
    environment = re.search(r'VIRTUAL_ENV=(\S+)', DOCKERFILE)
    assert environment
    settings = container['customizations']['vscode']['settings']
    assert settings['python.defaultInterpreterPath'] == f'{environment[1]}/bin/python'
