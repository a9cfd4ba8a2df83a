"""OUT/split/split.html: what a split sends, keeps and costs, beside the other ways to answer."""
