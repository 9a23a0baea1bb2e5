"""The command `mmtwins` and its parts, each a module with ``add_arguments(parser)`` and ``main(argv=None)``.

The modules import neither torch nor MMEngine before they know what to do: help, completion and errors of the command line
come at once. The files of tools/ call the same functions.
"""
