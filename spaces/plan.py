"""Share plans as data: which representations are taken from which donors."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from spaces.errors import BadPlan
from spaces.json_text import load_json

AdapterKind = Literal["identity", "linear"]
PLAN_VERSION = 1


@dataclass(frozen=True, order=True)
class Ref:
    """One representation: the output of a stage of a model, written `model:stage`.

    Raises:
        BadPlan: a name is empty or contains `:` or `->`.
    """

    model: str
    stage: str

    def __post_init__(self) -> None:
        for part in (self.model, self.stage):
            if not part or ":" in part or "->" in part:
                raise BadPlan(
                    f"{part!r} is not a name of a model or stage: it must not be empty or contain "
                    "':' or '->'"
                )

    def __str__(self) -> str:
        return f"{self.model}:{self.stage}"

    @classmethod
    def parse(cls, text: str) -> Ref:
        """Parse `model:stage`.

        Raises:
            BadPlan: the text has another form.
        """
        model, colon, stage = text.partition(":")
        if not colon:
            raise BadPlan(f"{text!r} is not a representation; write it as model:stage")
        return cls(model, stage)


@dataclass(frozen=True, order=True)
class AdapterSpec:
    """The kind of adapter that follows the spatial resize, written `identity`, `linear` or
    `linear@RANK`.

    Raises:
        BadPlan: the kind is unknown, or the rank is negative or given for `identity`.
    """

    kind: AdapterKind
    rank: int = 0
    """Rank of a linear map; 0 is full rank."""

    def __post_init__(self) -> None:
        if self.kind not in ("identity", "linear"):
            raise BadPlan(f"adapter {self.kind!r}: must be identity or linear")
        if self.rank < 0 or (self.kind == "identity" and self.rank):
            raise BadPlan(f"adapter {self.kind} cannot have rank {self.rank}")

    def __str__(self) -> str:
        return f"{self.kind}@{self.rank}" if self.rank else self.kind

    @classmethod
    def parse(cls, text: str) -> AdapterSpec:
        """Parse `identity`, `linear` or `linear@RANK`.

        Raises:
            BadPlan: the text has another form.
        """
        kind, at, rank = text.partition("@")
        if at and not re.fullmatch("[0-9]{1,6}", rank):
            raise BadPlan(f"adapter {text!r}: the rank after @ must be a whole number")
        return cls(kind, int(rank) if at else 0)  # type: ignore[arg-type]


IDENTITY = AdapterSpec("identity")
LINEAR = AdapterSpec("linear")


@dataclass(frozen=True, order=True)
class Share:
    """One share: the donor's representation, through the adapter, replaces the recipient's.

    Raises:
        BadPlan: donor and recipient belong to the same model.

    Examples:
        >>> print(Share.between("a:blocks.5", "b:blocks.5", "linear@64"))
        a:blocks.5 -> b:blocks.5 (linear@64)
    """

    recipient: Ref
    donor: Ref
    adapter: AdapterSpec = LINEAR

    def __post_init__(self) -> None:
        if self.donor.model == self.recipient.model:
            raise BadPlan(f"{self}: donor and recipient must belong to different models")

    @classmethod
    def between(cls, donor: str, recipient: str, adapter: str = "linear") -> Share:
        """Return the share between two representations, each written `model:stage`.

        Raises:
            BadPlan: a text has another form, or both are of one model.
        """
        return cls(Ref.parse(recipient), Ref.parse(donor), AdapterSpec.parse(adapter))

    def __str__(self) -> str:
        return f"{self.donor} -> {self.recipient} ({self.adapter})"


@dataclass(frozen=True)
class SharePlan:
    """A set of shares, sorted, with at most one for each recipient representation.

    Two plans with the same shares are equal and have the same `hash`, in whatever order the shares
    were given. `spaces.liveness.canonical` also makes plans equal that differ only in shares that
    no output reads; it needs the layouts of the models.

    Raises:
        BadPlan: two shares have the same recipient.

    Examples:
        >>> plan = SharePlan((Share.between("a:blocks.5", "b:blocks.5"),))
        >>> SharePlan.from_json(plan.to_json()) == plan
        True
        >>> len(plan.hash)
        12
    """

    shares: tuple[Share, ...] = ()

    def __post_init__(self) -> None:
        ordered = tuple(sorted(set(self.shares)))
        recipients = [share.recipient for share in ordered]
        for recipient in recipients:
            if recipients.count(recipient) > 1:
                raise BadPlan(
                    f"{recipient} has more than one donor; a representation can have only one"
                )
        object.__setattr__(self, "shares", ordered)

    @cached_property
    def hash(self) -> str:
        """Twelve hexadecimal digits that identify the plan in files, logs and MLflow."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def by_recipient(self) -> dict[Ref, Share]:
        """Return the shares by their recipient."""
        return {share.recipient: share for share in self.shares}

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values: its version and its shares."""
        shares = [
            {
                "donor": str(share.donor),
                "recipient": str(share.recipient),
                "adapter": str(share.adapter),
            }
            for share in self.shares
        ]
        return {"version": PLAN_VERSION, "shares": shares}

    def to_json(self) -> str:
        """Return the plan as canonical JSON text, which `hash` is computed from."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_dict(cls, data: Any) -> SharePlan:
        """Return the plan that `to_dict` wrote.

        Raises:
            BadPlan: the version is not supported, or a share is incomplete or invalid.
        """
        if not isinstance(data, dict) or not isinstance(data.get("shares"), list):
            raise BadPlan('a plan is {"version": 1, "shares": [...]}')
        if data.get("version") != PLAN_VERSION:
            raise BadPlan(
                f"plan version {data.get('version')!r}: only {PLAN_VERSION} is supported"
            )
        return cls(tuple(_share(entry) for entry in data["shares"]))

    @classmethod
    def from_json(cls, text: str) -> SharePlan:
        """Return the plan in a JSON text.

        Raises:
            BadPlan: the text is not JSON, or not a plan.
        """
        try:
            data = load_json(text)
        except ValueError as error:
            raise BadPlan(f"the plan is not JSON: {error}") from error
        return cls.from_dict(data)

    def __str__(self) -> str:
        return "; ".join(str(share) for share in self.shares) or "nothing shared"


def _share(entry: Any) -> Share:
    try:
        unknown = set(entry) - {"donor", "recipient", "adapter"}
        donor, recipient = Ref.parse(entry["donor"]), Ref.parse(entry["recipient"])
        adapter = AdapterSpec.parse(entry.get("adapter", "linear"))
    except (KeyError, TypeError, AttributeError) as error:
        raise BadPlan(
            f"share {entry!r}: donor and recipient (and adapter, if given) must be strings"
        ) from error
    if unknown:
        raise BadPlan(f"share {entry!r}: unknown keys {sorted(unknown)}")
    return Share(recipient, donor, adapter)
