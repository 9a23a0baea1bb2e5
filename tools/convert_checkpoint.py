"""Convert checkpoints between the names of libraries: the same as `mmtwins convert`."""

from mmtwins.commands.convert import main

if __name__ == '__main__':
    main()
