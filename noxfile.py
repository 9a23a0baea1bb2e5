"""The cells of docs/installation.md: the suite on each Python with old and new torches, set up in a fresh clone.

``nox -s 'cell(3.13-2.15.0)'`` runs one of them; ``-- demo`` after it, or any other target of the Makefile, runs that
instead of the tests. Needs ``pip install nox`` and that Python. mmcv's wheels are kept, as always by `make`.
"""

import shutil
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
# For each Python: the oldest torch that mmtwins admits and that has wheels for it, 2.6, 2.13 and the newest.
CELLS = {
    '3.10': ['2.1.0', '2.6.0', '2.13.0', '2.14.1'],
    '3.11': ['2.1.0', '2.6.0', '2.13.0', '2.15.0'],
    '3.12': ['2.2.0', '2.6.0', '2.13.0', '2.15.0'],
    '3.13': ['2.5.0', '2.6.0', '2.13.0', '2.15.0'],
    '3.14': ['2.9.0', '2.13.0', '2.15.0'],
}
# The maintained forks need NumPy 2, and so torch 2.3.
FORKS = {'3.11': ['2.13.0'], '3.13': ['2.15.0']}

nox.options.default_venv_backend = 'venv'
nox.options.sessions = []  # a cell takes an hour: name those that you want


def run(session: nox.Session, torch: str, stack: str) -> None:
    """Clone what is committed, install torch, set up, and run what stands after ``--``, or the tests."""
    # Not in the environment: MMEngine takes what lies there for Python's own, whose imports in a config are not lazy.
    clone = session.cache_dir.resolve() / Path(session.virtualenv.location).name / 'mmtwins'
    shutil.rmtree(clone, ignore_errors=True)
    session.run('git', 'clone', '--quiet', str(ROOT), str(clone), external=True)
    session.chdir(clone)
    session.install(f'torch=={torch}')
    session.run('make', 'setup', external=True, env={'STACK': stack})
    session.run('make', *(session.posargs or ['test']), external=True, env={'STACK': stack})


@nox.session
@nox.parametrize('python,torch', [nox.param(p, t, id=f'{p}-{t}') for p, torches in CELLS.items() for t in torches])
def cell(session: nox.Session, torch: str) -> None:
    """OpenMMLab's own packages."""
    run(session, torch, 'openmmlab')


@nox.session
@nox.parametrize('python,torch', [nox.param(p, t, id=f'{p}-{t}') for p, torches in FORKS.items() for t in torches])
def onedl(session: nox.Session, torch: str) -> None:
    """The maintained forks."""
    run(session, torch, 'onedl')
