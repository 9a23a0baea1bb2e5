"""Time and memory beside other implementations of Twins."""
