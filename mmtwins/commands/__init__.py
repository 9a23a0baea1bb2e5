"""Command lines of the package: ``add_arguments(parser)`` and ``main(argv)`` of each command."""
