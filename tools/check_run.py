"""Is a training on track? The same as `mmtwins check-run`."""

from mmtwins.commands.check_run import main

if __name__ == '__main__':
    main()
