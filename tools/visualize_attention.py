"""Draw what points of an image attend to: the same as `mmtwins attention`."""

from mmtwins.commands.attention import main

if __name__ == '__main__':
    main()
