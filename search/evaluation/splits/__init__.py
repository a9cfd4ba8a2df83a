"""What splits send and answer, and what the plain alternatives do, on the same frames."""
