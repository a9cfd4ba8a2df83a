"""`merge-search check`: everything that can be verified without running the search."""
