"""Read YAML strictly; errors do not quote its lines, which may hold secrets."""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

from spaces.errors import MergeSearchError

MOST_VALUES = 50_000
"""Keys and values in one text, where an alias counts as all that it repeats."""
MOST_LEVELS = 50
"""Levels of nesting."""
OTHER_BASE = re.compile(r"[-+]?(0[0-7_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
"""Numbers that YAML 1.1 reads to the base of 8 or of 60."""
UNREADABLE = (ValueError, LookupError, AttributeError, OverflowError)
"""What PyYAML raises for a scalar that does not fit its tag, such as a date in a 13th month."""
SYNTAX_WORDS = (
    ("found undefined alias", "an alias has no anchor before it; write text with a * in quotes"),
    ("could not determine a constructor", "tags are not supported; write text with a ! in quotes"),
    ("second occurrence", "an anchor of this name is given before"),
    ("expected <block end>", "the indentation differs from that of the lines above, or a quote or "
     "a bracket is missing before"),
    ("mapping values are not allowed", "no ': ' may stand here; check the indentation, and write "
     "text that holds one in quotes"),
    ("found character '\\t'", "a tab may not stand here; indent with spaces"),
    ("found character", "no value may begin with this character; write text in quotes"),
    ("found unhashable key", "a key must be text, not a list or a mapping"),
    ("but found another document", "a second document begins; a config is one"),
    ("found unknown escape", "an unknown escape; write text with a \\ in single quotes"),
)  # fmt: skip
"""Beginnings of PyYAML's messages that name no cure or quote a value, and words for them."""
VARIABLE_HINT = '; write "${NAME}" in quotes between { } or [ ]'


class NotYaml(MergeSearchError):
    """A text is no YAML that has one plain meaning; the message gives the line and the column."""


def read_yaml(text: str) -> Any:
    """Return the value of a YAML text. No two places in the value share an object.

    Raises:
        NotYaml: the text is not YAML, gives a key twice, or is nested too deep or too large.
    """
    try:
        return _unshared(yaml.load(text, Loader=_StrictLoader))
    except yaml.MarkedYAMLError as error:
        raise NotYaml(_sentence(error, text)) from None  # PyYAML's message quotes the line
    except yaml.reader.ReaderError as error:
        raise NotYaml(
            f"the character number {error.position + 1} is not allowed in YAML"
        ) from None


class _StrictLoader(yaml.SafeLoader):
    """Refuses valid YAML that has no end, or does not mean what its author thinks."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = 0
        self._level = 0

    def compose_document(self) -> Node | None:
        """Compose the whole text, and measure it before anything is built from it."""
        node = super().compose_document()
        if node is not None:
            _measure(node, {})
        return node

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self._values, self._level = self._values + 1, self._level + 1
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        _check_extent(self._values, self._level, event)
        node = super().compose_node(parent, index)
        self._level -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        """Compose a mapping; PyYAML would take the last of two equal keys."""
        node: MappingNode = super().compose_mapping_node(anchor)
        line_by_key: dict[tuple[str, str], int] = {}
        for key in (key for key, _ in node.value if isinstance(key, ScalarNode)):
            line = line_by_key.get((key.tag, key.value))
            if line is not None:
                raise _error(key, f"the key {key.value!r} is given twice (before in line {line})")
            line_by_key[key.tag, key.value] = key.start_mark.line + 1
        return node

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except UNREADABLE:
            kind = node.tag.rpartition(":")[2]
            raise _error(node, f"this {kind} cannot be read; write text in quotes") from None

    def construct_number(self, node: ScalarNode) -> Any:
        """Construct a number, unless it is written to a base that people do not expect."""
        kind = node.tag.rpartition(":")[2]
        read = self.construct_yaml_int if kind == "int" else self.construct_yaml_float
        number = read(node)
        if OTHER_BASE.fullmatch(node.value):
            raise _error(
                node,
                f"YAML reads {node.value} as {number}: write a number in decimal digits without "
                "a leading 0 or a colon, and text in quotes",
            )
        return number


for _kind in ("int", "float"):
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _StrictLoader.construct_number)


def _measure(node: Node, extents: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """Return the numbers of values and of levels of a node, with its aliases written out."""
    if id(node) in extents:
        extent = extents[id(node)]
        if extent is None:
            raise _error(node, "a value refers to itself")
        return extent
    extents[id(node)] = None
    parts = [_measure(part, extents) for part in _parts(node)]
    values = 1 + sum(values for values, _ in parts)
    levels = 1 + max((levels for _, levels in parts), default=0)
    _check_extent(values, levels, node)
    extents[id(node)] = values, levels
    return values, levels


def _parts(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, CollectionNode) else []


def _check_extent(values: int, levels: int, at: Any) -> None:
    if values > MOST_VALUES:
        raise _error(at, f"more than {MOST_VALUES} values, with aliases written out")
    if levels > MOST_LEVELS:
        raise _error(at, f"nested deeper than {MOST_LEVELS} levels")


def _unshared(value: Any) -> Any:
    """Copy what aliases share, so that a change in one place leaves the others as they are."""
    if isinstance(value, dict):
        return {key: _unshared(part) for key, part in value.items()}
    return [_unshared(part) for part in value] if isinstance(value, list) else value


def _error(at: Any, problem: str) -> yaml.MarkedYAMLError:
    """Return an error at the place of a node or an event."""
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


def _sentence(error: yaml.MarkedYAMLError, text: str) -> str:
    problem = str(error.problem or error.context)
    problem = next((words for start, words in SYNTAX_WORDS if problem.startswith(start)), problem)
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return problem
    hint = VARIABLE_HINT if text[max(mark.index - 1, 0) : mark.index + 1] == "${" else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}{hint}"
