"""The laws of `spaces` and `search`, read off their imports and calls."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = (
    ("utils", "data"),
    ("execution",),
    ("study", "statistics", "cameras", "split"),
    ("evaluation", "metrics", "drift", "refinement"),
    ("results", "config"),
    ("report", "tracking"),
    ("deploy",),
    ("pipelines",),
    ("watch",),
    ("fleet",),
    ("cli",),
)
"""The packages of `search`, lowest floor first; `spaces` lies below all of them."""
LEVEL = {package: level for level, floor in enumerate(LAYERS) for package in floor}
MOST_FILES = 14
"""Modules in one folder; more are a sign that a package holds two ideas."""
DOORS = {
    "apscheduler": "search/utils/schedule.py",
    "av": "search/cameras/video.py",
    "cachetools": "search/data/inputs/fitted_frames.py",
    "plotly": "search/report/charts/interactive.py",
    "scipy": "search/drift/",
    "sklearn": "search/fleet/clustering.py",
    "dask": "search/execution/",
    "distributed": "search/execution/",
    "fsspec": "search/data/remote/file_system.py",
    "timm": "spaces/sources/timm_source.py",
    "effdet": "spaces/sources/effdet_source.py",
    "onnx2pytorch": "spaces/sources/onnx_source.py",
    "huggingface_hub": "spaces/sources/hub.py",
    "openvino": "search/deploy/runtimes/openvino_session.py",
    "starlette": "search/deploy/serving/app.py",
    "uvicorn": "search/deploy/serving/serve.py",
    "optuna": "search/study/",
    "mlflow": "search/tracking/",
    "zstandard": "search/evaluation/splits/plain_codings.py",
}
CALLED_LIKE_THEIR_FUNCTIONS = ("search/api.py", "search/cli/")
STAND_ALONE = "search/deploy/examples/"
"""Programs that an export writes beside its files: nothing imports them."""
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
            # A relative import, which the layers forbid anyway, stays within its own package.
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


def search_modules(tree: ast.AST) -> Iterator[str]:
    """Full names of the modules of `search` that are imported, at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("search."))
        elif isinstance(node, ast.ImportFrom) and node.module == "search":
            yield from (f"search.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("search."):
            yield str(node.module)


def upward_imports(package: str, tree: ast.AST) -> list[str]:
    """Imports of a package on the same floor or a higher one."""
    return [
        module
        for module in search_modules(tree)
        if (other := module.split(".")[1]) != package
        and LEVEL.get(other, len(LAYERS)) >= LEVEL[package]
    ]


def test_the_source_folders_are_those_of_the_layers() -> None:
    folders = {p.relative_to(ROOT).parts[1] for p in (ROOT / "search").rglob("*.py")}
    assert {name for name in folders if not name.endswith(".py")} == set(LEVEL)
    assert ROOT / "spaces" / "zoo.py" in sources()


@pytest.mark.parametrize("package", LEVEL)
def test_a_package_imports_only_itself_and_lower_floors(package: str) -> None:
    upward = {
        path.relative_to(ROOT).as_posix(): imports
        for path in sorted((ROOT / "search" / package).rglob("*.py"))
        if (imports := upward_imports(package, parsed(path)))
    }
    assert upward == {}


def test_no_import_is_relative() -> None:
    relative = [
        path
        for path in sources()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def public_names(tree: ast.Module) -> set[str]:
    """Return the names without a leading underscore that a module defines at its top level."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            parts = (part for target in targets for part in ast.walk(target))
            names |= {part.id for part in parts if isinstance(part, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def test_a_public_name_is_defined_in_one_module() -> None:
    """The commands and the public API are named like the functions that they call.

    Programs that stand alone have names of their own.
    """
    modules_by_name: dict[str, list[str]] = {}
    for path in sources():
        module = path.relative_to(ROOT).as_posix()
        if not module.startswith((*CALLED_LIKE_THEIR_FUNCTIONS, STAND_ALONE)):
            for name in public_names(parsed(path)):
                modules_by_name.setdefault(name, []).append(module)
    homonyms = {name: modules for name, modules in modules_by_name.items() if len(modules) > 1}
    assert homonyms == {}


def test_no_folder_of_search_holds_too_many_modules() -> None:
    folders = {path.parent for path in sources() if path.is_relative_to(ROOT / "search")}
    crowded = {f.name: n for f in folders if (n := len(list(f.glob("*.py")))) > MOST_FILES + 1}
    assert crowded == {}


@pytest.mark.parametrize(
    ("package", "text", "allowed"),
    [
        ("study", "from search.utils.files import write_json", True),
        ("study", "from search.study import problem", True),
        ("study", "from search.statistics import ridge", False),
        ("utils", "def f():\n    from search.config.run import RunConfig", False),
        ("config", "import search.results.documents", False),
        ("watch", "from search import cli", False),
        ("cli", "from search import run", False),
    ],
)
def test_the_reader_of_layers_sees_upward_imports(package: str, text: str, allowed: bool) -> None:
    assert (upward_imports(package, ast.parse(text)) == []) == allowed


def test_spaces_never_imports_search_optuna_or_mlflow() -> None:
    forbidden = {
        path.name: imports
        for path in (ROOT / "spaces").rglob("*.py")
        if (imports := imported(parsed(path)) & FORBIDDEN_IN_SPACES)
    }
    assert forbidden == {}


@pytest.mark.parametrize("library", DOORS)
def test_each_library_has_one_door(library: str) -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for path in sources()
        if library in imported(parsed(path))
    }
    assert users and all(user.startswith(DOORS[library]) for user in users)


def test_nothing_is_unpickled() -> None:
    unsafe = {p.as_posix(): calls for p in sources() if (calls := unsafe_loads(parsed(p)))}
    assert unsafe == {}


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


def lazy_modules() -> dict[Path, ast.Module]:
    """Return the modules that import their members when these are first used."""
    trees = {path: parsed(path) for path in sources()}
    return {
        path: tree
        for path, tree in trees.items()
        if path.name != "lazy.py" and any(called(c) == "lazy_attributes" for c in calls(tree))
    }


def declared_members(tree: ast.Module) -> dict[str, str]:
    """Return the module of each name that is imported for type checkers and exported again."""
    blocks = [n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n)]
    return {
        alias.name: str(node.module)
        for block in blocks
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }


def test_lazy_members_are_those_that_type_checkers_see() -> None:
    lazy = lazy_modules()
    assert lazy
    for path, tree in lazy.items():
        (modules,) = (
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_MODULES"
        )
        assert modules == declared_members(tree), path
