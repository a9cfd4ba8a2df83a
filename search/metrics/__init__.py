"""Label-free similarity metrics and their registry."""
