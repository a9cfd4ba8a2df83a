"""Write both parts of a split model to folders, and load each of them alone.

    DIR/device   what a device needs: the stages before every end, and encoders
    DIR/server   what the server needs: everything after the crossing representations, and decoders

Each folder holds bundle.json, weights.safetensors and codecs.safetensors, and the structure of
networks that came from files. A bundle may hold several splits of one or several plans: each part
holds a tensor once, and a codec once that several splits have in common. Loading needs nothing of
the search, and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from safetensors import SafetensorError
from torch import Tensor, nn

from spaces.bundle import BundleContents, empty_models
from spaces.bundle_files import (
    BUNDLE,
    CODECS,
    RECALIBRATED,
    BadBundle,
    check_files,
    incomplete_bundle,
    seal_bundle,
    write_description,
)
from spaces.bundle_tensors import LoadedTensors, TensorCollection
from spaces.errors import BadInput, BadPlan
from spaces.execution import EntryPoint
from spaces.json_text import load_json
from spaces.merged import MergedModel
from spaces.plan import Ref, SharePlan
from spaces.split.codec import Decoder, Encoder
from spaces.split.numbered_tensors import find_different, read_numbered, write_numbered
from spaces.split.operating_point import OperatingPoint
from spaces.split.recalibrated import StatisticsByCoding
from spaces.split.split import BadSplit, Split, SplitParts
from spaces.stages import total_bytes, unique_tensors
from spaces.zoo import write_structure

PartName = Literal["device", "server"]
DEVICE_PART: PartName = "device"
SERVER_PART: PartName = "server"
PART_NAMES = (DEVICE_PART, SERVER_PART)
MOST_NUMBER = 256
"""Splits of a bundle, at most: a message names one of them in a byte."""
SPLIT_BUNDLE_VERSION = 1
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RuntimeError)
"""What reading tensors or JSON data of another form raises."""
CodecPart = TypeVar("CodecPart", Encoder, Decoder)


@dataclass(frozen=True)
class SplitContents:
    """Everything in both parts of a split bundle except the tensors.

    Raises:
        ValueError: there is no split, more than 256, or one of a plan that is not there.
    """

    models: BundleContents
    """The networks and the plans of the splits."""
    splits: tuple[Split, ...]
    points: tuple[OperatingPoint, ...] = ()
    """What a device may choose from, the best quality first."""

    def __post_init__(self) -> None:
        plans = {plan.hash for plan in self.models.plans}
        if not 0 < len(self.splits) <= MOST_NUMBER:
            raise ValueError(f"{len(self.splits)} splits; a bundle holds 1 to {MOST_NUMBER}")
        if {split.plan.hash for split in self.splits} != plans:
            raise ValueError("the plans are not those of the splits")

    def describe(self) -> dict[str, Any]:
        """Return the contents as JSON data."""
        return {
            **self.models.describe(),
            "split_version": SPLIT_BUNDLE_VERSION,
            "first_plan": self.models.plan.to_dict(),
            "splits": [
                {"plan": split.plan.hash, "ends": [str(end) for end in split.ends]}
                for split in self.splits
            ],
            "operating_points": [point.to_dict() for point in self.points],
        }

    @classmethod
    def from_description(cls, data: Mapping[str, Any]) -> SplitContents:
        """Return the contents that `describe` described.

        Raises:
            ValueError, KeyError, TypeError, AttributeError, BadPlan, BadInput: it did not.
        """
        models = BundleContents.from_description(data, SharePlan.from_dict(data["first_plan"]))
        plans = {plan.hash: plan for plan in models.plans}
        return cls(
            models,
            tuple(
                Split(plans[split["plan"]], tuple(map(Ref.parse, split["ends"])))
                for split in data["splits"]
            ),
            tuple(map(OperatingPoint.from_dict, data["operating_points"])),
        )


class SplitCodec(NamedTuple):
    """Both parts of the codec of a split, and what the server normalises decoded frames by."""

    encoder: Encoder
    decoder: Decoder
    statistics: StatisticsByCoding | None = None
    """None: by the statistics of the networks."""


@dataclass(frozen=True)
class LoadedPart(Generic[CodecPart]):
    """One part of a split bundle, as it is in its folder."""

    identity: str
    """Of the whole bundle: eight hexadecimal digits that both parts know."""
    contents: SplitContents
    merged: Mapping[str, MergedModel]
    """By the hash of the plan, with only the modules of this part."""
    entries: Sequence[EntryPoint]
    """What this part runs for each split."""
    codecs: Sequence[CodecPart]
    """Of each split; splits may have one in common."""
    statistics: Mapping[int, StatisticsByCoding]
    """By the number of the split, of those whose BatchNorms were recalibrated; on the server."""

    @property
    def held_bytes(self) -> int:
        """Bytes of its tensors as they are stored, each counted once."""
        tensors = unique_tensors(nn.ModuleList(self.merged.values()))
        for codec in dict.fromkeys(self.codecs):
            tensors += codec.stored().values()
        for statistics in dict.fromkeys(self.statistics.values()):
            tensors += statistics.stored().values()
        return total_bytes(tensors)


def write_split_bundle(
    folder: Path,
    contents: SplitContents,
    merged: Mapping[str, MergedModel],
    codecs: Sequence[SplitCodec],
) -> dict[PartName, int]:
    """Write both parts into an existing folder; return the bytes of the tensors of each.

    `merged` are the merged models by the hash of their plan, `codecs` those of the splits.

    Raises:
        BadSplit: a split does not fit the merged model of its plan.
        BadWeights: a weight is too large for its precision.
    """
    stored: Mapping[PartName, Sequence[Mapping[str, Tensor]]] = {
        "device": [codec.encoder.stored() for codec in codecs],
        "server": [codec.decoder.stored() for codec in codecs],
    }
    statistics = [codec.statistics.stored() if codec.statistics else None for codec in codecs]
    numbers: dict[PartName, dict[str, list[int | None]]] = {name: {} for name in PART_NAMES}
    sizes: dict[PartName, int] = {}
    for name in PART_NAMES:
        (folder / name).mkdir()
        tensors = TensorCollection(contents.models.dtype)
        for part in _restricted(contents, merged, name).values():
            tensors.add(part)
        sizes[name] = tensors.write(folder / name)
        different, numbers[name]["codecs"] = find_different(stored[name])
        sizes[name] += write_numbered(different, folder / name / CODECS)
    if any(statistics):
        different, numbers[SERVER_PART]["statistics"] = find_different(statistics)
        sizes[SERVER_PART] += write_numbered(different, folder / SERVER_PART / RECALIBRATED)
    identity = _identity(contents, sorted(folder.glob("*/*.safetensors")))
    for name in PART_NAMES:
        description = {**contents.describe(), **numbers[name], "part": name, "identity": identity}
        write_description(folder / name, description)
        for spec in contents.models.specs.values():
            write_structure(spec, folder / name)
    return sizes


def seal_parts(folder: Path) -> None:
    """List the files of both parts with their hashes, once all of them are written."""
    for name in PART_NAMES:
        seal_bundle(folder / name)


def load_part(folder: Path, name: PartName, codec: type[CodecPart]) -> LoadedPart[CodecPart]:
    """Load one part of a split bundle, with the encoders or decoders of its splits.

    Raises:
        BadBundle: a file is missing, damaged, changed, or of another part.
    """
    check_files(folder)
    data = _read_description(folder, name)
    try:
        contents = SplitContents.from_description(data)
        whole = dict(zip(_hashes(contents), empty_models(contents.models, folder), strict=True))
        restricted: dict[str, MergedModel] = _restricted(contents, whole, name)
        tensors = LoadedTensors(folder)
        by_number = {k: codec.from_stored(t) for k, t in read_numbered(folder / CODECS).items()}
        codecs = [by_number[number] for number in data["codecs"]]
        statistics = _read_statistics(folder, data.get("statistics", []))
        entries = [getattr(SplitParts.of(whole[s.plan.hash], s), name) for s in contents.splits]
        identity = str(data["identity"])
        int(identity, 16)
    except (OSError, SafetensorError, BadPlan, BadSplit, BadInput, *_MALFORMED) as error:
        raise incomplete_bundle(folder, error) from error
    if len(codecs) != len(entries):
        raise incomplete_bundle(folder, f"{len(codecs)} codecs for {len(entries)} splits")
    tensors.fill([*restricted.values()], contents.models.dtype)
    return LoadedPart(identity, contents, restricted, entries, codecs, statistics)


def _read_description(folder: Path, name: PartName) -> dict[str, Any]:
    try:
        data = load_json((folder / BUNDLE).read_text(encoding="utf-8"))
        part, version = data.get("part"), data.get("split_version")
    except (OSError, ValueError, AttributeError) as error:
        raise incomplete_bundle(folder, error) from error
    if part != name:
        what = f"the {part}'s part of a split" if part else "a bundle that is not split"
        raise BadBundle(f"{folder}: holds {what}; the folder of the {name}'s part is needed")
    if version != SPLIT_BUNDLE_VERSION:
        raise BadBundle(
            f"{folder / BUNDLE}: split version {version!r}; only {SPLIT_BUNDLE_VERSION} is "
            "supported"
        )
    return dict(data)


def _hashes(contents: SplitContents) -> list[str]:
    return [plan.hash for plan in contents.models.plans]


def _restricted(
    contents: SplitContents, merged: Mapping[str, MergedModel], name: PartName
) -> dict[str, MergedModel]:
    """Return the merged model of each plan with only what one part runs."""
    entries: dict[str, list[EntryPoint]] = {plan: [] for plan in _hashes(contents)}
    for split in contents.splits:
        parts = SplitParts.of(merged[split.plan.hash], split)
        entries[split.plan.hash].append(parts.device if name == DEVICE_PART else parts.server)
    return {plan: merged[plan].restricted_to(of_plan) for plan, of_plan in entries.items()}


def _read_statistics(folder: Path, numbers: Sequence[int | None]) -> dict[int, StatisticsByCoding]:
    """Return the statistics by the number of the split; `numbers` are those of the splits."""
    if not any(number is not None for number in numbers):
        return {}
    parts = read_numbered(folder / RECALIBRATED)
    different = {k: StatisticsByCoding.from_stored(part) for k, part in parts.items()}
    return {k: different[number] for k, number in enumerate(numbers) if number is not None}


def _identity(contents: SplitContents, tensor_files: Sequence[Path]) -> str:
    """Return eight hexadecimal digits of the SHA-256 of the contents and all tensors."""
    digest = hashlib.sha256(json.dumps(contents.describe(), sort_keys=True).encode())
    for file in tensor_files:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:8]
