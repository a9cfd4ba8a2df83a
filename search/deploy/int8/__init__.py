"""The graph of a bundle in int8, and what it keeps."""
