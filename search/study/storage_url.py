"""How the address of a study's storage is written."""

from __future__ import annotations

import re

POSTGRESQL = re.compile(r"postgres(ql)?(\+\w+)?://")
