"""The two parts of a split model: written, checked, and served."""
