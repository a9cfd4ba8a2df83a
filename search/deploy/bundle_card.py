"""The card of a bundle: its shares, its quality, and the licences of its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from search.evaluation.per_frame import main_score
from search.report.score_text import score_name
from search.results.kept_quality import kept_text, no_baseline_text
from search.results.precisions import (
    StoredBytes,
    by_model,
    describe_stored,
    name_weights,
    stored_bytes_by_precision,
)
from search.results.search_result import CandidateRecord, PlanRecord, Result
from search.utils.format import MEGABYTE, percent
from spaces.bundle import BundleContents
from spaces.cost import CostModel
from spaces.inputs import InputSpec
from spaces.model_spec import ModelSpec, without_folders
from spaces.plan import Ref, SharePlan
from spaces.zoo import weights_licence

CARD = "CARD.md"


def render_card(
    result: Result,
    record: PlanRecord,
    contents: BundleContents,
    checks: Sequence[str],
    sections: Sequence[str] = (),
) -> str:
    """Return the card in Markdown; `checks` are sentences on the checks of the export.

    `sections` follow that on the quality.
    """
    specs, plan = contents.specs, contents.plan
    stored = stored_bytes_by_precision(contents.plan, CostModel(contents.facts))
    weights = describe_stored(contents.plan, stored).removeprefix("weights in ") or str(
        result.config["dtype"]
    )
    parts = [
        f"# {escape_markdown(result.name)}: {escape_markdown(', '.join(specs))} merged",
        f"Plan `{record.hash}`, found on {result.created[:10]} by merge-search "
        f"{result.versions['merge-search']}: {record.bytes:,} bytes "
        f"({record.bytes / MEGABYTE:.2f} MB), {record.saved_pct:.1f}% less than the "
        f"{result.unmerged_bytes:,} of the unmerged models. Weights are stored in "
        f"{escape_markdown(weights)}.",
        "## What is shared",
        _shares(record),
        *(["## How weights are stored", _precisions(contents.plan, stored)] if stored else []),
        "## The models",
        markdown_table(
            ["model", "network", "task", "weights", "licence of the weights"],
            [
                [name, named.arch, result.models[name].task, named.weights, weights_licence(spec)]
                for name, spec in specs.items()
                if (named := without_folders(spec))
            ],
        ),
        "## Inputs",
        "Frames are uint8 (height, width, 3) in RGB order; the input of each network is made so:",
        _inputs(contents.inputs),
        "## Quality",
        _verified(result, record),
        *sections,
        "## Frames",
        f"The linear maps between the models were fitted {'and refined ' * plan.refined}on "
        f"{result.frames['count']} unlabelled frames (hash `{result.frames['hash']}`). For other "
        "kinds of frames, measure the quality again.",
        "## Checks",
        "\n".join(f"- {escape_markdown(check)}" for check in checks),
        "## Usage",
        f"See `example.py`. In Python, with the package merge-search installed{_modules(specs)}:",
        "```python\nimport spaces\n\nbundle = spaces.load_bundle(FOLDER)\n"
        "answers = bundle(frame)  # uint8, (height, width, 3), any size\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _modules(specs: Mapping[str, ModelSpec]) -> str:
    """Return the modules of the user's own that build networks, as the end of a clause."""
    names = {spec.arch.split(":")[1] for spec in specs.values() if spec.arch.startswith("python:")}
    return "".join(f", and the module {_code(name)} on the path" for name in sorted(names))


def _shares(record: PlanRecord) -> str:
    shares = SharePlan.from_dict(record.plan).shares
    if not shares:
        return "Nothing: these are the unmerged models."
    return "\n".join(
        f"- {_code(s.recipient.model)} takes {_code(s.recipient.stage)} from "
        f"{_code(str(s.donor))} ({escape_markdown(str(s.adapter))})"
        for s in shares
    )


def _precisions(plan: SharePlan, stored: StoredBytes) -> str:
    table = markdown_table(
        ["precision", "bytes", "stages"],
        [
            [
                precision,
                f"{sum(owners.values()):,}",
                "; ".join(
                    f"{model}: {name_weights(own, plan, most=len(own))}"
                    for model, own in by_model(map(Ref.parse, owners)).items()
                ),
            ]
            for precision, owners in stored.items()
        ],
    )
    return (
        f"{table}\n\nThe bytes include what these stages hold in float32 in any case: "
        "normalisations and, with int8, biases and one scale per output channel. A weight is "
        "converted to float32 while its layer runs."
    )


def _inputs(inputs: Mapping[str, InputSpec]) -> str:
    return markdown_table(
        ["model", "height x width", "fit", "resized by", "channels", "mean", "std"],
        [
            [
                name,
                f"{spec.height} x {spec.width}",
                spec.fit_in_words,
                spec.interpolation,
                spec.channels.upper() if spec.channel_count == 3 else "grey",
                ", ".join(f"{value:.4g}" for value in spec.mean),
                ", ".join(f"{value:.4g}" for value in spec.std),
            ]
            for name, spec in inputs.items()
        ],
    )


def escape_markdown(text: str) -> str:
    """Write the signs of Markdown and HTML in a text of the user as what they are.

    An underscore within a word is none, nor is a sign of ordinary sentences within a line.
    """
    return re.sub(r"[^\w .,:;/+%()-]|\b_|_\b", lambda sign: f"&#{ord(sign[0])};", text)


def _code(text: str) -> str:
    """Write a name as code; a name with backticks, which would end it, as escaped text."""
    return escape_markdown(text) if re.search(r"[`\n]", text) else f"`{text}`"


def _verified(result: Result, record: PlanRecord) -> str:
    if not isinstance(record, CandidateRecord):
        return (
            f"Not verified. The proxy predicts a quality of {percent(record.proxy)}; "
            "`merge-search verify` measures it."
        )
    rows = [
        [
            name,
            *_score(name, result, record),
            kept_text(record.kept.get(name), result.at_chance.keys() & {name}),
            percent(record.fidelity.get(name)),
        ]
        for name in result.models
    ]
    header = ["model", "score", "unmerged", "merged", "quality kept", "fidelity"]
    notes = "Fidelity is agreement with the unmerged models on unlabelled frames."
    if result.at_chance:
        notes += f" Quality kept has {escape_markdown(no_baseline_text(result.at_chance))}."
    return f"{markdown_table(header, rows)}\n\n{notes}"


def _score(name: str, result: Result, record: CandidateRecord) -> tuple[str, str, str]:
    """Return the name of the main score, its unmerged and its merged value."""
    if name not in result.baseline:
        return "no labels", "-", "-"
    return (
        score_name(result.baseline[name]),
        percent(main_score(result.baseline[name])),
        percent(main_score(record.accuracy[name])),
    )


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *(map(escape_markdown, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
