"""The section of a bundle's card on its cost where the models run at their own rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from search.deploy.bundle_card import markdown_table
from search.evaluation.latency import PartTimer, default_stopwatch
from spaces.bundle import Bundle, BundleContents
from spaces.cost import CostModel
from spaces.inputs import Frame
from spaces.merged import MergedModel
from spaces.plan import SharePlan


@dataclass(frozen=True)
class PartCost:
    """The measured cost of a part of a merged model at its rate."""

    name: str
    rate: float
    """Runs per second of camera time."""
    milliseconds: float
    """Median per run."""

    @property
    def milliseconds_per_second(self) -> float:
        return self.rate * self.milliseconds


def rated_cost_section(bundle: Bundle, contents: BundleContents, frames: Sequence[Frame]) -> str:
    """Measure a bundle whose models have rates; return the section in Markdown."""
    device = next(bundle.parameters()).device
    inputs = [bundle.prepare_frames([frame]) for frame in frames]
    timer = PartTimer(default_stopwatch(device), bundle.merged, inputs)
    return "\n\n".join(
        [
            "## Cost at the given rates",
            _parts_table(timer, contents.rates),
            f"Measured in PyTorch on {device.type}, {torch.get_num_threads()} threads at most: "
            "medians over single frames that are already prepared. The trunk is what several "
            "models need; it runs at the highest rate of the models that read it.",
            _macs_text(contents),
        ]
    )


def part_costs(timer: PartTimer, rates: Mapping[str, float]) -> Iterator[PartCost]:
    """Measure the trunk, if there is any, and the tail of each model."""
    trunk = timer.merged.trunk
    if trunk.steps:
        yield PartCost("trunk", trunk_rate(timer.merged, rates), timer.milliseconds(trunk))
    for name, rate in rates.items():
        yield PartCost(f"tail of {name}", rate, timer.milliseconds(timer.merged.tail(name), trunk))


def trunk_rate(merged: MergedModel, rates: Mapping[str, float]) -> float:
    """Return the highest rate of the models that read the trunk."""
    return max(rate for name, rate in rates.items() if merged.tail(name).takes)


def _parts_table(timer: PartTimer, rates: Mapping[str, float]) -> str:
    parts, highest = [*part_costs(timer, rates)], max(rates.values())
    whole = PartCost(
        "everything at the highest rate", highest, timer.milliseconds(timer.merged.whole)
    )
    total = sum(part.milliseconds_per_second for part in parts)
    rows = [*map(_row, parts), ["sum of the parts", "", "", f"{total:.2f}"], _row(whole)]
    return markdown_table(["part", "rate (1/s)", "ms per run", "ms per second of camera"], rows)


def _row(part: PartCost) -> list[str]:
    return [
        part.name,
        f"{part.rate:g}",
        f"{part.milliseconds:.3f}",
        f"{part.milliseconds_per_second:.2f}",
    ]


def _macs_text(contents: BundleContents) -> str:
    costs, plan, rates = CostModel(contents.facts), contents.plan, contents.rates
    own = costs.macs_per_second(plan, rates) / 1e6
    whole = max(rates.values()) * costs.macs(plan) / 1e6
    unmerged = costs.macs_per_second(SharePlan(), rates) / 1e6
    return (
        f"Per second of camera time the parts take {own:,.2f} M multiply-accumulates, everything "
        f"at the highest rate {whole:,.2f} M, and the unmerged models at their rates "
        f"{unmerged:,.2f} M."
    )
