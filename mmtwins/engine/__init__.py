"""What configs and tools put around MMEngine's Runner: hooks, transforms, checks."""
