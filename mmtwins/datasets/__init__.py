"""Checks of data before training: annotation files, label images and images, and the report and pictures of them."""
