"""mmcv for the set-up: how it is mended and built, and when its wheel is used again. No network."""

import subprocess
import sys
from pathlib import Path

import pytest

PYTHON = f'python3.{sys.version_info[1]}'
UNREACHABLE = "WARNING: Retrying after connection broken by 'NewConnectionError()': /simple/mmcv/\n"


def test_a_missing_compiler_or_header_is_named(script, setup_mmcv, executable, tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(script.SetupError, match=r'compiler \(c\+\+\)'):
        setup_mmcv.check_compiler()
    monkeypatch.setenv('CXX', '/nowhere/clang++ -O2')
    with pytest.raises(script.SetupError, match=r'/nowhere/clang\+\+'):
        setup_mmcv.check_compiler()
    monkeypatch.setenv('CXX', f'{executable(tmp_path / "clang++")} -O2')
    monkeypatch.setattr(setup_mmcv.sysconfig, 'get_path', lambda _: str(tmp_path))
    with pytest.raises(script.SetupError, match=r'Python\.h') as error:
        setup_mmcv.check_compiler()
    assert error.value.args[1] == f'sudo apt-get install {PYTHON}-dev'


# What the mends of setup_mmcv.py look for, as mmcv 2.1.0 has it.
SETUP_PY = """
def get_version():
    version_file = 'mmcv/version.py'
    with open(version_file, encoding='utf-8') as f:
        exec(compile(f.read(), version_file, 'exec'))
    return locals()['__version__']

extra_compile_args = {'cxx': ['-std=c++17'], 'nvcc': []}
extra_compile_args['nvcc'] += ['-std=c++17']
"""


class Mmcv:
    """A machine with CPU torch on which mmcv builds at once; its wheel holds the word that is then installed."""

    def __init__(self, script, tmp_path, monkeypatch) -> None:
        monkeypatch.setenv('STACK', 'openmmlab')
        self.builds, self.installed, self.works, self.failure = 0, '', {'built'}, None
        self.text, self.torch = SETUP_PY, '2.13.0+cpu'
        self.wheel = script.steps.CACHE / script.setup_mmcv.wheel_key('2.13.0+cpu', 'cpu') / 'mmcv-2.1.0-cp3-linux.whl'
        self.origin = self.wheel
        steps, setup_mmcv = script.steps, script.setup_mmcv
        monkeypatch.setattr(steps, 'capture', lambda *_: (0, f'["{self.torch}", null, null, []]'))
        monkeypatch.setattr(setup_mmcv, 'check_compiler', lambda: None)
        monkeypatch.setattr(steps, 'run', self.run)
        monkeypatch.setattr(steps, 'pip', self.pip)
        monkeypatch.setattr(steps, 'version', lambda name: '2.1.0' if self.installed and name == 'mmcv' else '')
        monkeypatch.setattr(steps, 'direct_url', lambda name: {'url': self.origin.as_uri()} if self.origin else {})
        monkeypatch.setattr(
            setup_mmcv, 'mmcv_failure', lambda: '' if self.installed in self.works else 'undefined symbol'
        )
        self.install = lambda: setup_mmcv.install_mmcv(tmp_path)

    def run(self, title, command, log, **variables):
        with log.open('a') as file:
            file.write('all of it')
        if 'download' in command:
            self.unpack(Path(variables['TMPDIR']) / 'pip-download-x' / 'mmcv_y')
            return 1, "KeyError: '__version__'"  # mmcv 2.1.0 on Python 3.13: pip fails after it unpacked the file
        assert variables['MMCV_WITH_OPS'] == '1'
        self.setup_py = (Path(command[-1]) / 'setup.py').read_text()
        self.builds += 1
        if self.failure is KeyboardInterrupt:
            raise KeyboardInterrupt
        if self.failure:
            return 1, self.failure
        (Path(command[command.index('--wheel-dir') + 1]) / self.wheel.name).write_text('built')
        return 0, 'warning: no error: here\n'

    def unpack(self, source: Path) -> None:
        (source / 'mmcv').mkdir(parents=True)
        (source / 'setup.py').write_text(self.text)

    def pip(self, prefix, title, *arguments):
        self.installed = Path(arguments[-1]).read_text()


@pytest.fixture
def mmcv(script, tmp_path, monkeypatch):
    return Mmcv(script, tmp_path, monkeypatch)


def test_mmcv_is_built_once(mmcv):
    mmcv.install()
    assert (mmcv.builds, mmcv.installed, mmcv.wheel.read_text()) == (1, 'built', 'built')
    assert {path.name for path in mmcv.wheel.parent.iterdir()} == {'build.log', mmcv.wheel.name}
    mmcv.install()  # it is installed
    mmcv.installed = ''
    mmcv.install()  # it is in the cache
    assert (mmcv.builds, mmcv.installed) == (1, 'built')


def test_a_wheel_that_does_not_work_is_named(script, mmcv):
    mmcv.wheel.parent.mkdir(parents=True)
    mmcv.wheel.write_text('broken')
    with pytest.raises(script.SetupError, match='undefined symbol') as error:
        mmcv.install()
    assert str(mmcv.wheel) in error.value.args[0]


def test_an_mmcv_that_somebody_else_built_is_kept_if_it_works(mmcv):
    mmcv.origin, mmcv.installed = None, 'theirs'
    mmcv.works.add('theirs')
    mmcv.install()
    assert (mmcv.builds, mmcv.installed) == (0, 'theirs')
    mmcv.works.remove('theirs')
    mmcv.install()
    assert (mmcv.builds, mmcv.installed) == (1, 'built')


@pytest.mark.parametrize(
    ('torch', 'operators', 'builds'),
    [('2.12.0+cpu', 'cpu', 1), ('2.13.0+cpu', 'cu13.0-9.0', 0), ('2.13.0+cpu', 'cpu', 0)],
)
def test_ours_is_replaced_if_it_is_for_another_torch(setup_mmcv, mmcv, torch, operators, builds):
    mmcv.origin = Path('/home/.cache/mmtwins') / setup_mmcv.wheel_key(torch, operators) / mmcv.wheel.name
    mmcv.installed = 'built'
    mmcv.install()
    assert mmcv.builds == builds


@pytest.mark.parametrize(
    ('output', 'message'),
    [
        ('In file a.cpp\na.cpp:3: error: no such type\nninja: build stopped\n', 'a.cpp:3: error: no such type'),
        ('c++: fatal error: Killed signal terminated program cc1plus\n', 'Killed'),
        (UNREACHABLE, 'No network'),
        ('[Errno 28] No space left on device', 'The disk is full'),
    ],
)
def test_a_failed_build_names_its_log_and_error_and_leaves_no_wheel(script, mmcv, output, message):
    mmcv.failure = output
    with pytest.raises(script.SetupError, match=message) as error:
        mmcv.install()
    assert str(mmcv.wheel.parent / 'build.log') in error.value.args[1]
    assert [path.name for path in mmcv.wheel.parent.iterdir()] == ['build.log']


def test_an_interrupted_build_leaves_no_wheel_and_is_done_again(mmcv):
    mmcv.failure = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        mmcv.install()
    assert [path.name for path in mmcv.wheel.parent.iterdir()] == ['build.log']
    leftover = mmcv.wheel.parent / 'build' / mmcv.wheel.name  # of a kill -9
    leftover.parent.mkdir()
    leftover.write_text('half')
    mmcv.failure = None
    mmcv.install()
    assert mmcv.wheel.read_text() == 'built'


def test_the_cache_is_keyed_by_python_torch_and_operators(setup_mmcv, monkeypatch):
    monkeypatch.setenv('STACK', 'openmmlab')
    key = setup_mmcv.wheel_key('2.13.0+cpu', 'cpu')
    assert key.startswith(f'mmcv-2.1.0-cp3{sys.version_info[1]}-')
    assert key.endswith('-torch-2.13.0+cpu-cpu')
    monkeypatch.setattr(sys, 'version_info', (3, 99, 0))
    assert '-cp399-' in setup_mmcv.wheel_key('2.13.0+cpu', 'cpu')


@pytest.mark.parametrize(
    ('cuda', 'release', 'gpus', 'key'),
    [
        (None, '13.0', [], 'cpu'),
        ('13.0', None, ['9.0'], 'cpu'),
        ('13.0', '12.4', ['9.0'], 'cpu'),
        ('13.0', '13.2', ['9.0'], 'cu13.2-9.0'),
        ('12.1', '12.4', ['8.0', '9.0'], 'cu12.4-8.0_9.0'),
        ('13.0', '13.0', [], 'cpu'),
    ],
)
def test_cuda_operators_are_built_where_nvcc_fits_torch(
    setup_mmcv, executable, tmp_path, capsys, cuda, release, gpus, key
):
    if release:
        executable(tmp_path / 'bin' / 'nvcc', f'echo "Cuda compilation tools, release {release}, V{release}.48"')
    operators, variables = setup_mmcv.choose_operators(cuda, str(tmp_path), gpus)
    assert operators == key
    assert variables['FORCE_CUDA'] == str(int(key != 'cpu'))
    assert variables.get('TORCH_CUDA_ARCH_LIST') == (';'.join(gpus) if key != 'cpu' else None)
    assert variables.get('CUDA_VISIBLE_DEVICES') == ('' if key == 'cpu' else None)  # mmcv builds for any GPU it sees
    assert ('CPU operators only' in capsys.readouterr().out) == (bool(cuda) and key == 'cpu')


@pytest.mark.parametrize(
    ('python', 'torch', 'standard', 'scope'),
    [
        ((3, 10), '2.1.0', 'c++17', False),
        ((3, 12), '2.13.0+cpu', 'c++17', False),
        ((3, 12), '2.14.0', 'c++20', False),
        ((3, 13), '2.13.0', 'c++17', True),
        ((3, 14), '2.15.0+cu132', 'c++20', True),
        ((3, 14), '3.0.0a0', 'c++20', True),
    ],
)
def test_setup_py_is_mended_for_the_pythons_and_torches_that_need_it(
    setup_mmcv, tmp_path, monkeypatch, capsys, python, torch, standard, scope
):
    (tmp_path / 'setup.py').write_text(SETUP_PY)
    monkeypatch.setattr(sys, 'version_info', (*python, 0))
    setup_mmcv.mend(tmp_path, torch)
    text = (tmp_path / 'setup.py').read_text()
    assert text.count(f"'-std={standard}'") == 2 == text.count('-std=')
    assert ("scope['__version__']" in text, 'locals()' in text) == (scope, not scope)
    printed = capsys.readouterr().out
    assert printed.count('Mending') == (standard == 'c++20') + scope
    assert (text == SETUP_PY) == (not printed)
    setup_mmcv.mend(tmp_path, torch)  # nothing is left to mend
    assert (tmp_path / 'setup.py').read_text() == text


def test_the_mended_version_lookup_gives_the_version_on_this_python(setup_mmcv, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'version_info', (3, 13, 0))
    (tmp_path / 'setup.py').write_text(SETUP_PY)
    setup_mmcv.mend(tmp_path, '2.14.1')
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv' / 'version.py').write_text("__version__ = '2.1.0'\ndef parse(x): return x\nparse(__version__)\n")
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec((tmp_path / 'setup.py').read_text(), scope)
    assert scope['get_version']() == '2.1.0'


def test_a_setup_py_without_the_faults_is_left_alone(setup_mmcv, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'version_info', (3, 14, 0))
    (tmp_path / 'setup.py').write_text('setup()\n')
    setup_mmcv.mend(tmp_path, '2.15.0')
    assert (tmp_path / 'setup.py').read_text() == 'setup()\n'


@pytest.mark.parametrize(
    ('text', 'why'),
    [
        ('flags = ["-O2 -std=c++17"]', 'torch 2.14 and newer'),
        ("exec(f.read())\n    version = locals()['__version__']", 'Python 3.13 and newer'),
    ],
)
def test_a_fault_in_other_words_is_refused(script, mmcv, monkeypatch, text, why):
    monkeypatch.setattr(sys, 'version_info', (3, 14, 0))
    mmcv.text, mmcv.torch = text, '2.15.0'
    with pytest.raises(script.SetupError, match=why) as error:
        mmcv.install()
    assert len(error.value.args) == 2 and 'mmcv==2.1.0' in error.value.args[1]
    assert mmcv.builds == 0


def test_what_is_built_is_the_mended_source(mmcv, monkeypatch):
    monkeypatch.setattr(sys, 'version_info', (3, 13, 0))
    mmcv.torch = '2.15.0'
    mmcv.install()
    assert "'-std=c++20'" in mmcv.setup_py and 'locals()' not in mmcv.setup_py


def test_without_network_nothing_is_unpacked_and_pip_says_why(script, mmcv, monkeypatch):
    monkeypatch.setattr(mmcv, 'unpack', lambda source: None)
    with pytest.raises(script.SetupError, match="KeyError: '__version__'"):
        mmcv.install()


def test_the_header_that_most_files_include_is_compiled_once(setup_mmcv, tmp_path, monkeypatch):
    monkeypatch.delenv('CXX', raising=False)
    if 'Free Software' not in subprocess.run(['c++', '--version'], capture_output=True, text=True).stdout:
        pytest.skip('needs GCC as c++')
    header = tmp_path / 'a folder' / setup_mmcv.HEADER
    assert setup_mmcv.compile_header_once(tmp_path, tmp_path / 'a folder') == {}
    header.parent.mkdir(parents=True)
    header.write_text('#pragma once\ninline int seven() { return SEVEN; }\n')
    compiler = setup_mmcv.compile_header_once(tmp_path, tmp_path / 'a folder')['CXX']
    objects = {}
    for name, command, flag in (('a', compiler, '-DSEVEN=7'), ('b', 'c++', '-DSEVEN=7'), ('c', compiler, '-DSEVEN=8')):
        (tmp_path / f'{name}.cpp').write_text(f'#include "{header.name}"\nint number() {{ return seven(); }}\n')
        words = [
            '-MMD',
            '-MF',
            f'{name}.o.d',
            '-H',
            '-g0',
            f'-I{header.parent}',
            '-c',
            f'{name}.cpp',
            '-o',
            f'{name}.o',
            flag,
        ]
        done = subprocess.run([command, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        objects[name] = (tmp_path / f'{name}.o').read_bytes()
        assert (f'! {header}.gch' in done.stderr) == (
            flag == '-DSEVEN=7'
        )  # GCC marks what it reads in place of a header
        assert (tmp_path / f'{name}.o.d').exists()
    assert objects['c'] != objects['a']
    assert subprocess.run([compiler, '--version'], capture_output=True).returncode == 0


@pytest.fixture
def newer(script, setup_mmcv, mmcv, tmp_path, monkeypatch):
    """mmcv 2.2.0 beside a MMSegmentation and a MMDetection that refuse it."""
    for package, name in (('mmseg', 'MMCV_MAX'), ('mmdet', 'mmcv_maximum_version')):
        (tmp_path / package).mkdir()
        (tmp_path / package / '__init__.py').write_text(f"import mmcv\n{name} = '2.2.0'\nMMENGINE_MAX = '1.0.0'\n")
        monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(script.steps, 'version', lambda name: '2.2.0' if name == 'mmcv' else '')
    mmcv.installed = 'theirs'
    mmcv.works.add('theirs')
    return tmp_path


def test_an_mmcv_that_the_libraries_refuse_is_named_and_nothing_is_changed(script, setup_mmcv, newer):
    with pytest.raises(script.SetupError, match=r'mmcv 2\.2\.0 is there') as error:
        setup_mmcv.refuse_too_new()
    assert 'pip uninstall mmcv' in error.value.args[1] and 'MMCV_BOUND=raise' in error.value.args[1]
    assert "= '2.2.0'\n" in (newer / 'mmseg' / '__init__.py').read_text()


def test_the_bound_is_raised_at_the_users_word_and_mmcv_is_kept(setup_mmcv, mmcv, newer, monkeypatch, capsys):
    monkeypatch.setenv('MMCV_BOUND', 'raise')
    for _ in range(2):
        setup_mmcv.refuse_too_new()
        mmcv.install()
        assert (mmcv.builds, mmcv.installed) == (0, 'theirs')
        for package, name in (('mmseg', 'MMCV_MAX'), ('mmdet', 'mmcv_maximum_version')):
            lines = (newer / package / '__init__.py').read_text().splitlines()
            assert lines[1].startswith(f"{name} = '2.3.0'") and lines[2] == "MMENGINE_MAX = '1.0.0'"
    assert 'mmcv 2.2.0 is kept' in capsys.readouterr().out


def test_a_bound_in_other_words_is_not_touched(script, mmcv, newer, monkeypatch):
    monkeypatch.setenv('MMCV_BOUND', 'raise')
    (newer / 'mmdet' / '__init__.py').write_text('bound = None\n')
    with pytest.raises(script.SetupError, match='mmcv_maximum_version'):
        mmcv.install()
