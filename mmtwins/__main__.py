"""`python -m mmtwins`, and the command `mmtwins` of an install: see :mod:`mmtwins.commands`."""

from .commands.entry import main

if __name__ == '__main__':
    main()
