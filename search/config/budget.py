"""The budget of a config: bytes, or a share of the bytes of the unmerged models."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

FORMS = "write it as 65%, 24 MB, 23 MiB or a whole number of bytes above 0"
BYTES = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9,
         "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}  # fmt: skip
"""Bytes of each unit."""


@dataclass(frozen=True)
class Budget:
    """A number and its unit, where `%` means a share of the unmerged bytes."""

    number: float
    unit: str

    @classmethod
    def parse(cls, value: object) -> Budget:
        """Return the budget that a config gives as text or as a whole number.

        Raises:
            ValueError: the value has another form, or means less than 1 byte or more than 100%.
        """
        if type(value) is float and 0 < value <= 1:
            raise ValueError(_share_advice(value))
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%|[kKMG]?i?B|)\s*", str(value))
        if type(value) not in (int, str) or not match or not 0 < float(match[1]) < math.inf:
            raise ValueError(FORMS)
        budget = cls(float(match[1]), match[2])
        if not budget.unit and "." in match[1]:
            raise ValueError(_share_advice(budget.number) if budget.number <= 1 else FORMS)
        budget._check()
        return budget

    def count_bytes(self, unmerged: int) -> int:
        """Return the budget in bytes, for unmerged models of that many bytes.

        Raises:
            ValueError: it is less than 1 byte.
        """
        if self.unit != "%":
            return int(self.number * BYTES[self.unit])
        count = int(unmerged * self.number / 100)
        if count < 1:
            raise ValueError(f"{self.number:g}% of the unmerged {unmerged} bytes is not 1 byte")
        return count

    def _check(self) -> None:
        if self.unit == "%":
            if self.number > 100:
                raise ValueError("write at most 100%, which is all bytes of the unmerged models")
        elif self.unit not in BYTES:
            raise ValueError(f"unit {self.unit!r}: use %, kB, MB, GB, KiB, MiB or GiB")
        elif self.count_bytes(0) < 1:
            raise ValueError(f"it is less than 1 byte; {FORMS}")


def _share_advice(share: float) -> str:
    return f"write {100 * share:.10g}% for that share of the bytes of the unmerged models"


def parse_budget(value: str | int, unmerged: int) -> int:
    """Return a budget in bytes, for unmerged models of that many bytes.

    The value is a number of bytes, or text such as `24 MB` (10^6), `23 MiB` (2^20) or `65%`.

    Raises:
        ValueError: the value has another form, or means less than 1 byte or more than 100%.
    """
    return Budget.parse(value).count_bytes(unmerged)
