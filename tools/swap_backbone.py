"""Write a config that inherits any of MMSegmentation or MMDetection and has a Twins backbone."""

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # Ctrl-C while the imports below take their time

from mmtwins.commands.swap import main

if __name__ == '__main__':
    main()
