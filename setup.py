"""Packaging: metadata, and configs, tools and model-index.yml inside the package where `mim` looks for them."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def requirements(name: str) -> list[str]:
    """The requirements in requirements/NAME.txt, the one place for versions."""
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    return [line for line in (line.split('#')[0].strip() for line in lines) if line]


def version() -> str:
    """`__version__` of the package, read without importing it (and torch with it)."""
    text = (ROOT / 'mmtwins' / '__init__.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE).group(1)


class BuildWithMim(build_py):
    """Copy configs, tools and model-index.yml to mmtwins/.mim in the build folder; the checkout stays as it is.

    An editable install has no copy of the package and so none of these: there `python tools/train.py` takes the place
    of `mim train mmtwins`.
    """

    def run(self) -> None:
        if self.editable_mode:
            super().run()
            return
        package = Path(self.build_lib) / 'mmtwins'
        shutil.rmtree(package, ignore_errors=True)  # files of a former build, perhaps deleted since
        super().run()
        not_shipped = shutil.ignore_patterns('__pycache__', '*.py[cod]', 'setup_*.py')
        for folder in ('configs', 'tools'):
            shutil.copytree(ROOT / folder, package / '.mim' / folder, ignore=not_shipped)
        shutil.copy(ROOT / 'model-index.yml', package / '.mim')


readme = ROOT / 'README.md'
setup(
    name='mmtwins',
    version=version(),
    description='Twins-SVT and Twins-PCPVT backbones for MMSegmentation 1.x and MMDetection 3.x',
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else '',
    long_description_content_type='text/markdown',
    author='The mmtwins contributors',
    license='Apache-2.0',
    keywords='computer vision, semantic segmentation, object detection, vision transformer, OpenMMLab',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'License :: OSI Approved :: Apache Software License',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Programming Language :: Python :: 3.14',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=['mmtwins', 'mmtwins.*']),
    package_data={'mmtwins': ['py.typed'], 'mmtwins.page': ['page.css', 'page.js']},
    entry_points={'console_scripts': ['mmtwins = mmtwins.__main__:main']},
    cmdclass={'build_py': BuildWithMim},
    python_requires='>=3.10,<3.15',
    install_requires=requirements('base'),
    extras_require={
        'export': requirements('export'),
        'openvino': requirements('openvino'),
        # mmcv needs torch installed before it builds, so neither framework is a hard requirement: `make setup` does it.
        'seg': [*requirements('mmcv'), *requirements('seg')],
        'det': [*requirements('mmcv'), *requirements('det')],
        'cls': [*requirements('mmcv'), *requirements('cls')],
        'app': requirements('app'),
        'video': requirements('video'),
        'tracking': requirements('tracking'),
        'tests': [*requirements('tests'), *requirements('export'), *requirements('app'), *requirements('video')],
        'lint': requirements('lint'),
        'docs': requirements('docs'),
        'all': [*requirements('mmcv'), *requirements('seg'), *requirements('det')],
    },
    zip_safe=False,
)
