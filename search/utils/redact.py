"""Keep passwords in addresses out of files and messages."""

from __future__ import annotations

import re


def without_credentials(text: str) -> str:
    """Remove `user:password@` and query parameters such as `password=` from every URI in a text.

    Everything up to the last @ is removed: a password may hold an unescaped @ or /.
    """
    bare = re.sub(r"(\w://)(?!/)\S*@", r"\1", text)
    return re.sub(r"(?i)(?<=[?&])(password|passwd|pwd|token)=[^&\s]*&?", "", bare)
