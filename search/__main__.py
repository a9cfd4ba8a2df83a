"""`python -m search` is `merge-search`."""

from search.cli import main

main(prog_name="merge-search")
