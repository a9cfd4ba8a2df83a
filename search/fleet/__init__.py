"""Cameras in groups with one plan each: signatures, placement, rounds. The only door to
scikit-learn."""
