"""What surrounds MMEngine's Runner: configs, command-line arguments, checks, hooks and transforms."""
