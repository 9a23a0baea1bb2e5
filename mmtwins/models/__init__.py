"""The backbones and the layers that they are made of, and parts of detectors that float16 needs."""
