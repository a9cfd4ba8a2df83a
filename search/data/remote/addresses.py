"""Addresses of folders on servers, as texts; nothing is read here."""

from __future__ import annotations

from urllib.parse import urlsplit

SCHEMES = ("http", "https", "s3", "gs")
"""Those of addresses that frames are read from."""
ADDRESS_WORDS = (
    "must be a folder, or an address such as s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or "
    "https://HOST/FOLDER"
)
SECRET_WORDS = (
    "must hold no user, password, query or fragment: what a server asks for is read from ~/.netrc "
    "(http), or from the environment as the tools of S3 and Google read it"
)


def is_address(text: str) -> bool:
    """Whether a text is an address and not a path."""
    return "://" in text


def check_address(text: str) -> None:
    """Check that frames can be read from an address.

    Raises:
        ValueError: it has another scheme, no host, or a part that may hold a secret.
    """
    scheme, _, rest = text.partition("://")
    if scheme not in SCHEMES or not rest.strip("/"):
        raise ValueError(ADDRESS_WORDS)
    parts = urlsplit(text)
    if "@" in rest or parts.query or parts.fragment or not parts.hostname:
        raise ValueError(SECRET_WORDS)
