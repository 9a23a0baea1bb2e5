"""Put Twins under a model of MMSegmentation or MMDetection: the same as `mmtwins swap`."""

from mmtwins.commands.swap import main

if __name__ == '__main__':
    main()
