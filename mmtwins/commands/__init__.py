"""The command `mmtwins`. Each of its commands is a module with ``add_arguments(parser)`` and ``main(argv=None)``.

The modules import neither torch nor MMEngine before the arguments are read, so that help, completion and errors of the command
line come at once. The files of tools/ call the same functions.
"""
