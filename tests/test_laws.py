"""The laws of the two packages, read off their imports and calls."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOORS = {
    "apscheduler": {"search/schedule.py"},
    "av": {"search/video.py"},
    "plotly": {"search/explorer.py"},
    "scipy": {"search/drift.py"},
    "timm": {"spaces/zoo.py"},
    "effdet": {"spaces/zoo.py"},
    "optuna": {f"search/study{part}.py" for part in ("", "_claims", "_samplers", "_store")},
    "mlflow": {
        "search/examples/served.py",
        *(
            f"search/tracking{p}.py"
            for p in ("", "_models", "_registry", "_runs", "_shelf", "_watch")
        ),
    },
}
FORBIDDEN_IN_SPACES = {"search", "optuna", "mlflow"}
UNPICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def sources() -> list[Path]:
    return [
        path for package in ("spaces", "search") for path in sorted((ROOT / package).rglob("*.py"))
    ]


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of all packages that are imported, at any depth and by any means."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            # The packages are flat, so a relative import stays within its own.
            names |= {node.module or ""} if not node.level else set()
        elif isinstance(node, ast.Call) and called(node).endswith(("import_module", "__import__")):
            names |= {
                a.value
                for a in node.args
                if isinstance(a, ast.Constant) and isinstance(a.value, str)
            }
    return {name.partition(".")[0] for name in names}


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def unsafe_loads(tree: ast.AST) -> list[str]:
    """Every call or import that could run code hidden in a file."""
    found = []
    for call in calls(tree):
        options = {word.arg: ast.unparse(word.value) for word in call.keywords}
        module, _, name = called(call).rpartition(".")
        if called(call) == "torch.load" and options.get("weights_only") != "True":
            found.append(ast.unparse(call))
        elif module in UNPICKLING and name in ("load", "loads", "Unpickler", "open"):
            found.append(ast.unparse(call))
        elif options.get("allow_pickle", "False") != "False":
            found.append(ast.unparse(call))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in (*UNPICKLING, "torch"):
            names = {alias.name for alias in node.names}
            found += sorted(names & {"load", "loads", "Unpickler"})
    return found


def test_there_is_something_to_read() -> None:
    assert {path.parent.name for path in sources()} == {"spaces", "search", "examples"}
    assert ROOT / "spaces" / "zoo.py" in sources()


@pytest.mark.parametrize("path", sorted((ROOT / "spaces").rglob("*.py")), ids=lambda p: p.name)
def test_what_is_possible_never_asks_what_is_best(path: Path) -> None:
    assert not imported(parsed(path)) & FORBIDDEN_IN_SPACES


@pytest.mark.parametrize("library", DOORS)
def test_each_library_has_one_door(library: str) -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for path in sources()
        if library in imported(parsed(path))
    }
    assert users <= DOORS[library]


def test_the_door_to_the_networks_is_in_use() -> None:
    assert {"timm", "effdet"} <= imported(parsed(ROOT / "spaces" / "zoo.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_nothing_is_unpickled(path: Path) -> None:
    assert unsafe_loads(parsed(path)) == []


@pytest.mark.parametrize(
    "text",
    [
        "import timm.models as m",
        "from timm.data import x",
        "def f():\n    import timm",
        "import importlib\nimportlib.import_module('timm')",
        "__import__('timm')",
        "if True:\n    try:\n        from timm import *\n    except ImportError: pass",
    ],
)
def test_the_reader_of_imports_sees_every_way_to_import(text: str) -> None:
    assert "timm" in imported(ast.parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "torch.load(p, weights_only=flag)",
        "pickle.loads(b)",
        "joblib.load(p)",
        "pickle.Unpickler(f).load()",
        "from pickle import load",
        "from torch import load",
        "np.load(p, allow_pickle=True)",
    ],
)
def test_the_reader_of_calls_sees_every_way_to_unpickle(text: str) -> None:
    assert unsafe_loads(ast.parse(text))


def test_the_reader_of_calls_lets_safe_loading_pass() -> None:
    safe = "torch.load(p, weights_only=True)\nnp.load(p, allow_pickle=False)\njson.load(f)"
    assert unsafe_loads(ast.parse(safe)) == []
