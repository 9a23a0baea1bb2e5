"""Time and peak memory beside other implementations: the same as `mmtwins benchmark`."""

from mmtwins.commands.benchmark import main

if __name__ == '__main__':
    main()
