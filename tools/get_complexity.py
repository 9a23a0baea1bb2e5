"""Parameters and MACs of a model, per module: the same as `mmtwins cost CONFIG`."""

from mmtwins.commands.cost import main_of_model

if __name__ == '__main__':
    main_of_model()
