"""Generated data and the pictures of `make demo`."""
