"""Evaluate a checkpoint with the config's metrics: the same as `mmtwins test`."""

from mmtwins.commands.test import main

if __name__ == '__main__':
    main()
