"""`merge-search serve`: the server's part of a split model behind HTTP."""
