"""Where work on frames is done: in this process, or by the workers of a cluster."""
