"""Passwords that stand in addresses, and how to keep them out of what is written and said."""

from __future__ import annotations

import re


def without_credentials(text: str) -> str:
    """The text with `user:password@`, and `password=` in a query, taken out of every URI in it.

    Up to the last @: a password may hold what should have been written as %40 or %2F.
    """
    bare = re.sub(r"(\w://)(?!/)\S*@", r"\1", text)
    return re.sub(r"(?i)(?<=[?&])(password|passwd|pwd|token)=[^&\s]*&?", "", bare)
