"""Match the names of a checkpoint's tensors to those of a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from spaces.errors import BadWeights

_COUNTER = "num_batches_tracked"
"""A buffer of BatchNorm that inference does not read; old checkpoints lack it."""
NOT_WEIGHTS_FIRST = {"anchors", "anchor_labeler", "criterion", "loss", "loss_fn", "n_averaged"}
NOT_WEIGHTS_LAST = {"total_ops", "total_params", _COUNTER}
"""First and last parts of names under which trainers and profilers store other things."""
MODULE_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""Prefixes that modules around a network put before its names: of DataParallel, of torch.compile,
and of trainers."""
_MAX_LISTED = 3


@dataclass(frozen=True)
class MatchedWeights:
    """The tensors of a checkpoint that belong to a network, under the network's names."""

    state: Mapping[str, Tensor]
    prefix: str
    """What stands before the network's names in the checkpoint, such as `module.`."""
    left_out: tuple[str, ...]
    """Names of the other tensors in the checkpoint, as far as they are no weights of a network."""

    @property
    def note(self) -> str:
        """What was stripped and left out, in words; empty if nothing."""
        notes = [f"prefix {self.prefix!r} stripped"] if self.prefix else []
        if self.left_out:
            notes.append(f"{len(self.left_out)} tensors left out ({listed(self.left_out)})")
        return ", ".join(notes)


def match_names(state: Mapping[str, Tensor], net: nn.Module, source: str) -> MatchedWeights:
    """Strip the prefix of the checkpoint's names, and leave out what is no weight of the network.

    Of several copies of the network in one checkpoint, an averaged one (`ema`) is taken.

    Raises:
        BadWeights: the checkpoint holds several copies, and none is averaged.
    """
    own = set(net.state_dict())
    prefix = _prefix(state, own, source)
    inner = {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
    weights = {
        name: tensor for name, tensor in inner.items() if name in own or not _is_no_weight(name)
    }
    outside = (name for name in state if not name.startswith(prefix))
    left_out = (*outside, *(name for name in inner if name not in weights))
    return MatchedWeights(
        weights, prefix, tuple(name for name in left_out if not is_counter(name))
    )


def tied_names(net: nn.Module) -> list[set[str]]:
    """Return the names of each tensor that a network holds under more than one."""
    names: dict[int, set[str]] = {}
    for name, tensor in net.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), set()).add(name)
    return [group for group in names.values() if len(group) > 1]


def listed(names: Iterable[str]) -> str:
    """Join names with commas, the first few only."""
    first = list(names)
    return ", ".join(first[:_MAX_LISTED]) + (", ..." if first[_MAX_LISTED:] else "")


def _prefix(state: Mapping[str, Tensor], own: set[str], source: str) -> str:
    """Return the prefix after which the names are the network's own.

    If the names are those of another library, it is the prefix of a wrapper around all of them.
    """
    counts = Counter(
        start for name in state for start in _prefixes(name) if name.removeprefix(start) in own
    )
    most = max(counts.values(), default=0)
    if 2 * most < len(own):
        return _common_wrapper(state)
    best = [prefix for prefix, count in counts.items() if count == most]
    if len(best) > 1:
        averaged = [prefix for prefix in best if "ema" in prefix]
        if len(averaged) != 1:
            raise BadWeights(
                f"{source} holds the network {len(best)} times, under the prefixes "
                f"{', '.join(best)}; save the one that you use"
            )
        return averaged[0]
    return best[0]


def _common_wrapper(names: Iterable[str]) -> str:
    prefix = ""
    while True:
        rest = [name.removeprefix(prefix) for name in names]
        outer = next((w for w in MODULE_PREFIXES if all(name.startswith(w) for name in rest)), "")
        if not outer:
            return prefix
        prefix += outer


def _prefixes(name: str) -> Iterable[str]:
    """Yield the empty text and every start of a name that ends with a dot."""
    yield ""
    position = name.find(".")
    while position >= 0:
        yield name[: position + 1]
        position = name.find(".", position + 1)


def _is_no_weight(name: str) -> bool:
    first, _, _ = name.partition(".")
    return first in NOT_WEIGHTS_FIRST or name.rpartition(".")[2] in NOT_WEIGHTS_LAST


def is_counter(name: str) -> bool:
    """Return whether a tensor counts batches, which inference does not read."""
    return name.rpartition(".")[2] == _COUNTER
