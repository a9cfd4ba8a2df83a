"""Standard output and standard error, on which no character ends a command."""

from __future__ import annotations

import codecs
import contextlib
import sys

PLAIN = {"…": "...", "×": "x", "→": "->", "−": "-", "–": "-", "²": "2", "°": " degrees"}  # noqa: RUF001
"""How the program's own characters are written where the encoding lacks them."""
ERRORS = "merge-search-plain"


def accept_all_characters() -> None:
    """Let both streams write a character that their encoding lacks in another way.

    The encoding is that of the terminal, or of PYTHONIOENCODING. Paths may hold bytes that no
    encoding can write.
    """
    codecs.register_error(ERRORS, _in_plain_characters)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            with contextlib.suppress(OSError):  # asking for the position, once all is set
                stream.reconfigure(errors=ERRORS)


def _in_plain_characters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(PLAIN.get(character, "?") for character in text), error.end
