"""The steps of `merge-search run`: search, verify the front, build the result, write files."""
