"""Sources of new frames. The only door to PyAV."""
