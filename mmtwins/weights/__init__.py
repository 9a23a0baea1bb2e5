"""Checkpoints: their formats, what of them fits a model, and how they are read."""
