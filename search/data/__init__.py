"""Frame sets and ground truth."""
