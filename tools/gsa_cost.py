"""What local and global attention cost: the same as `mmtwins cost` without a config."""

from mmtwins.commands.cost import main_of_attention

if __name__ == '__main__':
    main_of_attention()
