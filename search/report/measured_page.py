"""Measurements on devices in a report that was written before they were made."""

from __future__ import annotations

import re
from pathlib import Path

from search.report.html import REPORT
from search.report.html_tables import candidate_table
from search.report.page_parts import report_template
from search.results.search_result import Result
from search.utils.files import write_text

CANDIDATES = re.compile(r'(?s)<section id="candidates".*?(<table class="sortable">.*?</table>)')
"""The table of candidates in the page, as its only group."""


def update_candidates(result: Result, out: Path) -> bool:
    """Write the table of candidates of OUT/report.html again; the rest of the page stays.

    Returns whether there is a page with such a table.

    Raises:
        CannotWrite: the folder cannot be written to.
    """
    path = out / REPORT
    page = path.read_text(encoding="utf-8") if path.is_file() else ""
    place = CANDIDATES.search(page)
    if place is None:
        return False
    table = report_template("candidates.html").render(table=candidate_table(result))
    write_text(path, page[: place.start(1)] + table + page[place.end(1) :])
    return True
