"""The URL of a study's storage."""

from __future__ import annotations

import re

POSTGRESQL = re.compile(r"postgres(ql)?(\+\w+)?://")
