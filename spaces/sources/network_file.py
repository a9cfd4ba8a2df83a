"""What networks have in common that come from a file, which holds their weights, too."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from spaces.errors import BadInput, BadWeights
from spaces.inputs import InputSpec
from spaces.model_spec import ModelSpec
from spaces.sources.source import imagenet_input


@runtime_checkable
class FileSource(Protocol):
    """A source whose networks come from files."""

    def write_structure(self, spec: ModelSpec, path: Path, target: Path) -> None:
        """Write the network in the file `path` to `target`, without its weights.

        The source builds the same network from `target`, with other weights.

        Raises:
            BadInput: `path` holds no such network.
        """
        ...


def check_no_hub(spec: ModelSpec) -> None:
    """Check that the weights are not to come from a model hub.

    Raises:
        BadWeights: they are.
    """
    if spec.weights == "hub":
        raise BadWeights(
            f"{spec.name}: {spec.arch} has no weights in a hub; set `weights:` to `none` for "
            "those in the file"
        )


def file_input(spec: ModelSpec, shape: tuple[int | None, ...], example: str) -> InputSpec:
    """Return the input of a network that takes tensors of a shape; None is a size that is open.

    `example` says how to export a network for batches of any number of frames.

    Raises:
        BadInput: the network takes no batches of frames, or not those that the spec says.
    """
    if len(shape) != 4:
        raise BadInput(
            f"{spec.name}: {spec.arch} takes a tensor of {len(shape)} dimensions; frames come as "
            "(frames, channels, height, width)"
        )
    batch, channels, *sides = shape
    if batch is not None:
        raise BadInput(
            f"{spec.name}: {spec.arch} takes batches of exactly {batch}; export it for batches of "
            f"any size: {example}"
        )
    _check_channels(spec, channels)
    return imagenet_input(spec, _size(spec, sides), spec.task or "classification")


def _check_channels(spec: ModelSpec, channels: int | None) -> None:
    wanted = spec.input.in_chans or 3
    if channels not in (None, wanted):
        cure = f": set input: {{in_chans: {channels}}}" if channels in (1, 3) else ""
        raise BadInput(f"{spec.name}: {spec.arch} takes {channels} channels, not {wanted}{cure}")


def _size(spec: ModelSpec, sides: list[int | None]) -> tuple[int, int]:
    wanted = spec.size or sides
    height, width = (own or side for own, side in zip(sides, wanted, strict=True))
    if height is None or width is None:
        raise BadInput(f"{spec.name}: {spec.arch} takes inputs of any size: set `size:`")
    if spec.size not in (None, (height, width)):
        raise BadInput(
            f"{spec.name}: size {wanted[0]}x{wanted[1]}: {spec.arch} takes {height}x{width} only; "
            "leave `size:` out, or export the network at that size"
        )
    return height, width


def check_class_count(spec: ModelSpec, classes: int) -> None:
    """Check that a network has as many classes as the spec says.

    Raises:
        BadInput: it has another number.
    """
    if spec.num_classes not in (None, classes):
        raise BadInput(
            f"{spec.name}: num_classes {spec.num_classes}: {spec.arch} has {classes} classes"
        )
