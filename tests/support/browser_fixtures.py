"""Fixtures for `browsers`; tests/conftest.py loads them as a plugin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browsers import browser
from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A running browser for all tests of a module."""
    with browser() as started:
        yield started
