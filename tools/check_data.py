"""Check the data of a config before training: the same as `mmtwins check-data`."""

from mmtwins.commands.check_data import main

if __name__ == '__main__':
    main()
