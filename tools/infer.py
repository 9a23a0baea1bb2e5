"""Predict on images and videos: the same as `mmtwins predict`."""

from mmtwins.commands.predict import main

if __name__ == '__main__':
    main()
