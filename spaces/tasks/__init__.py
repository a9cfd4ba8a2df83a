"""What networks do: the form of their answers, and how much two answers have in common."""
