"""Training: step, loop, optimizer, checkpoints and the run folder."""
