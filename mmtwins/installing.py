"""How to get what an optional part of mmtwins needs; every hint says it in the same words."""

# mmtwins is on no package index, so pip needs the checkout.
INSTALL = "pip install --no-build-isolation '.[{}]'"


def how_to_install(extra: str) -> str:
    """The command that installs an extra of setup.py, such as ``app``, in a checkout."""
    if extra == 'cls':  # which make setup leaves out
        return f'run `{INSTALL.format(extra)}` in a checkout of mmtwins'
    return f'run `make setup`, or `{INSTALL.format(extra)}`, in a checkout of mmtwins'
