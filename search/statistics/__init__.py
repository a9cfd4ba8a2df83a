"""The streaming pass over the frames, and closed-form linear maps."""
