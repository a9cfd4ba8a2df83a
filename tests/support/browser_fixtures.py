"""Fixtures over `browsers`; a module that wants them names this one in its `pytest_plugins`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browsers import browser
from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started
