"""A runtime that a portable graph is written for."""

from __future__ import annotations

from dataclasses import dataclass

from search.deploy.runtimes.operator_list import OperatorList


@dataclass(frozen=True)
class RuntimeTarget:
    """A runtime, or the compiler of a device, and the form of the graphs that it takes."""

    name: str
    """As the command line spells it; the folder of its files has the same name."""
    title: str
    """As its vendor spells it."""
    opset: int
    """Newest set of ONNX operators."""
    ir_version: int
    """Newest version of the ONNX file format."""
    compressed_weights: bool
    """Whether it reads weights in int8 by `DequantizeLinear`, and in float16 behind a `Cast`.

    The others quantise a graph in float32 by themselves.
    """
    keeps_integers: bool
    """Whether weights in int8 stay so in its memory; others convert them once, on loading."""
    weights_beside: bool
    """Whether it reads weights from a file beside the graph."""
    next_step: str
    """A sentence with the command or the call that takes the file."""
    operators: OperatorList | None = None
    """What the vendor publishes; none where the graph is run instead."""
    max_dimensions: int = 4
    """Most dimensions of a tensor."""

    def __post_init__(self) -> None:
        if self.compressed_weights != (self.operators is None):
            raise ValueError(f"{self.name}: only runtimes that are run here take stored weights")
