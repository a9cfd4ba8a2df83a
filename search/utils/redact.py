"""Keep secrets in addresses out of files and messages."""

from __future__ import annotations

import re


def without_credentials(text: str) -> str:
    """Remove `user:password@`, the query and the fragment from every URI in a text.

    A secret may stand under any name in a query. Everything up to the last @ is removed: a
    password may hold an unescaped @, /, ? or #.
    """
    bare = re.sub(r"(\w://)(?!/)\S*@", r"\1", text)
    return re.sub(r"(\w://[^\s?#'\"]*)[?#][^\s'\")]*", r"\1", bare)


def host_only(uri: str) -> str:
    """Return a camera's URI without its path too, which may hold a secret."""
    return re.sub(r"(\w://[^\s/]*)/?.*", r"\1", without_credentials(uri))
