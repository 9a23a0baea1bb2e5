"""Figures of a training: its curves, and predictions beside the truth."""
