"""Frames as networks take them: read ahead, fitted, in batches, and kept for the next time."""
