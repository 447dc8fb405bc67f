"""The training loop: steps, processes, signals, checkpoints, and the log."""
