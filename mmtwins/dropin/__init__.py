"""Twins as timm and the public gvt.py have it, for programs without MMEngine: classifiers, feature maps, ``create_model``."""
