"""Tests whether a camera has changed. The only door to SciPy."""
