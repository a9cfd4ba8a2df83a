"""Share plans as data: which representations are taken from which donors, and how the weights that
remain are stored."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

from spaces.errors import BadPlan
from spaces.json_text import load_json

AdapterKind = Literal["identity", "linear"]
Precision = Literal["float32", "float16", "bfloat16", "int8"]
"""How weights are stored; int8 with one scale per output channel."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
HEAD = "(head)"
"""Takes the place of a stage's name in what belongs to the head of a model."""
SHARES_ONLY, WITH_PRECISION, REFINED = 1, 2, 3
"""The versions of plans: with shares only, with precisions too, and with refined maps."""


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
    refined_in: str = ""
    """The hash of the refined plan whose own map the share takes; empty for the map in closed
    form. Plans themselves do not say it: see `SharePlan.with_own_maps`."""

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
    """A set of shares with at most one for each recipient representation, and a set of precisions.

    Two plans with the same content are equal and have the same `hash`, in whatever order their
    shares and precisions were given. `spaces.liveness.canonical` also makes plans equal that
    differ only in what no output reads; it needs the layouts of the models.

    Raises:
        BadPlan: two shares have the same recipient, or weights have two precisions.

    Examples:
        >>> plan = SharePlan((Share.between("a:blocks.5", "b:blocks.5"),))
        >>> SharePlan.from_json(plan.to_json()) == plan
        True
        >>> len(plan.hash)
        12
        >>> precision = {"a:blocks.5": "int8"}
        >>> print(SharePlan.from_dict({"version": 2, "shares": [], "precision": precision}))
        nothing shared; int8: a:blocks.5
    """

    shares: tuple[Share, ...] = ()
    precisions: tuple[tuple[Ref, Precision], ...] = ()
    """The representations and heads, each with how the weights that compute it are stored: those
    of its stage or, of a share's recipient, those of the map. Of a map that is folded, the
    precision of the layers that take it in counts. All other weights are stored as the models
    give them."""
    refined: bool = False
    """Whether the linear maps are refined on unlabelled frames after their closed form."""

    def __post_init__(self) -> None:
        ordered = tuple(sorted(set(self.shares)))
        recipients = [share.recipient for share in ordered]
        for recipient in recipients:
            if recipients.count(recipient) > 1:
                raise BadPlan(
                    f"{recipient} has more than one donor; a representation can have only one"
                )
        owners = [owner for owner, _ in {*self.precisions}]
        for owner in owners:
            if owners.count(owner) > 1:
                raise BadPlan(f"{owner} has more than one precision")
        object.__setattr__(self, "shares", ordered)
        object.__setattr__(self, "precisions", tuple(sorted({*self.precisions})))

    @cached_property
    def precision_by_owner(self) -> Mapping[Ref, Precision]:
        """The precisions by the representation or head whose weights they apply to."""
        return dict(self.precisions)

    def with_precisions(self, precision_by_owner: Mapping[Ref, Precision]) -> SharePlan:
        """Return the same plan with these precisions instead of its own."""
        return replace(self, precisions=tuple(precision_by_owner.items()))

    def with_own_maps(self) -> SharePlan:
        """Return the plan with shares that are told apart from those of plans with other maps.

        They are the keys of the maps. Of a plan that is not refined it is the plan itself.
        """
        tag = self.hash if self.refined else ""
        return replace(self, shares=tuple(replace(s, refined_in=tag) for s in self.shares))

    def in_closed_form(self) -> SharePlan:
        """Return the same plan with maps that are not refined."""
        return replace(self, refined=False)

    @property
    def mapped_shares(self) -> tuple[Share, ...]:
        """The shares with a linear map."""
        return tuple(share for share in self.shares if share.adapter.kind == "linear")

    @cached_property
    def hash(self) -> str:
        """Twelve hexadecimal digits that identify the plan in files, logs and MLflow."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def by_recipient(self) -> dict[Ref, Share]:
        """Return the shares by their recipient."""
        return {share.recipient: share for share in self.shares}

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values: its version, its shares, and what else it has."""
        shares = [
            {
                "donor": str(share.donor),
                "recipient": str(share.recipient),
                "adapter": str(share.adapter),
            }
            for share in self.shares
        ]
        version = REFINED if self.refined else WITH_PRECISION if self.precisions else SHARES_ONLY
        data: dict[str, Any] = {"version": version, "shares": shares}
        if self.precisions:
            data["precision"] = {str(owner): precision for owner, precision in self.precisions}
        return data | ({"refined": True} if self.refined else {})

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
        version, precision = data.get("version"), data.get("precision", {})
        if version not in (SHARES_ONLY, WITH_PRECISION, REFINED):
            raise BadPlan(
                f"plan version {version!r}: only {SHARES_ONLY}, {WITH_PRECISION} and {REFINED} "
                "are supported"
            )
        if not isinstance(precision, dict) or (precision and version == SHARES_ONLY):
            raise BadPlan(
                f'"precision" is a mapping such as {{"model:stage": "int8"}}, in a plan of '
                f"version {WITH_PRECISION} or later"
            )
        refined = data.get("refined", False)
        if not isinstance(refined, bool) or refined != (version == REFINED):
            raise BadPlan(f'"refined" is true in a plan of version {REFINED}, and in no other')
        shares = tuple(_share(entry) for entry in data["shares"])
        return cls(shares, tuple(_precision(*entry) for entry in precision.items()), refined)

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
        lines = [str(share) for share in self.shares] or ["nothing shared"]
        for precision in PRECISIONS:
            owners = [str(owner) for owner, stored in self.precisions if stored == precision]
            lines += [f"{precision}: {', '.join(owners)}"] if owners else []
        return "; ".join([*lines, "maps refined"] if self.refined else lines)


def _precision(owner: str, precision: Any) -> tuple[Ref, Precision]:
    if precision not in PRECISIONS:
        raise BadPlan(f"precision of {owner}: {precision!r} is none of {', '.join(PRECISIONS)}")
    return Ref.parse(owner), precision


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
