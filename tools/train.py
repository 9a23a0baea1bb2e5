"""Train a segmentor or a detector: the same as `mmtwins train`."""

from mmtwins.commands.train import main

if __name__ == '__main__':
    main()
