"""Export a model: the same as `mmtwins export`."""

from mmtwins.commands.export import main

if __name__ == '__main__':
    main()
