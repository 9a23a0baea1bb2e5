"""The backbones and the layers that they are made of."""
