"""Predictions for images and videos, and what is made of them."""
