"""One module per command, read top to bottom."""
