"""Serve a local page for a trained model: the same as `mmtwins app`."""

from mmtwins.commands.app import main

if __name__ == '__main__':
    main()
