"""Where a pipeline's records go."""
