"""Sources of new frames and their recordings. The only door to PyAV."""
