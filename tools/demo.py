"""Train on generated scenes and show the results: the same as `mmtwins demo`."""

import sys

from mmtwins.commands.demo import main

if __name__ == '__main__':
    sys.exit(main())
