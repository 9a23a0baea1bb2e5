"""`python -m mmtwins`, and the command `mmtwins` of an install: see :mod:`mmtwins.commands`."""

# PYTHON_ARGCOMPLETE_OK, for shells that complete the arguments of all programs
from .commands.entry import main

if __name__ == '__main__':
    main()
