"""`python -m search` is `merge-search`."""

from search.cli.main import main

main(prog_name="merge-search")
