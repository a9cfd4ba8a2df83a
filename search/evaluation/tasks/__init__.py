"""How the answers of each task are scored, against ground truth and against each other."""
