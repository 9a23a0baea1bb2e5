"""Names of packages, and how to get what an optional part of mmtwins needs; every hint says it in the same words."""

from importlib.metadata import PackageNotFoundError, distribution

# mmtwins is on no package index, so pip needs the checkout.
INSTALL = "pip install --no-build-isolation '.[{}]'"
# By module: OpenMMLab's package and its maintained fork, of which an environment has one.
PACKAGES = {
    'mmengine': ('mmengine', 'onedl-mmengine'),
    'mmcv': ('mmcv', 'onedl-mmcv'),
    'mmseg': ('mmsegmentation', 'onedl-mmsegmentation'),
    'mmdet': ('mmdet', 'onedl-mmdetection'),
}


def package_of(module: str) -> str:
    """The package that a module comes from.

    Args:
        module: Such as ``mmseg``.

    Returns:
        Its name on the package index: of OpenMMLab's package, or of the maintained fork if that is installed.
    """
    theirs, fork = PACKAGES.get(module, (module, module))
    return fork if not _is_installed(theirs) and _is_installed(fork) else theirs


def how_to_install(extra: str) -> str:
    """The command that installs an extra of setup.py, such as ``app``, in a checkout."""
    if package_of('mmengine') != 'mmengine':  # the extras would bring OpenMMLab's own packages beside the forks
        if extra == 'cls':
            return 'run `pip install onedl-mmpretrain`'
        alone = '' if extra in ('all', 'seg', 'det') else f', or `pip install -r requirements/{extra}.txt`,'
        return f'run `make setup`{alone} in a checkout of mmtwins'
    if extra == 'cls':  # which make setup leaves out
        return f'run `{INSTALL.format(extra)}` in a checkout of mmtwins'
    return f'run `make setup`, or `{INSTALL.format(extra)}`, in a checkout of mmtwins'


def _is_installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True
