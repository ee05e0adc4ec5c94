"""Arithmetic of checkpoints: what one costs, how long a recovery takes, how often to take one. No I/O."""
