"""The documentation agrees with the program: commands, config keys, examples and links."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import search
import spaces
from search.config.loading import load_config
from search.config.split import SplitConfig
from search.config.watch import WatchConfig

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]

sys.path.append(str(DOCS / "site"))
import drawings  # noqa: E402
import generate  # noqa: E402
import offline  # noqa: E402

GENERATED = generate.generated_files()


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.name)
def test_generated_pages_are_up_to_date(path: Path) -> None:
    assert read(path) == GENERATED[path], "run: python docs/site/generate.py"


@pytest.mark.parametrize("command", generate.command_paths(), ids=" ".join)
def test_the_commands_page_has_the_help_of_every_command(command: tuple[str, ...]) -> None:
    assert generate.help_text(command) in read(DOCS / "reference/commands.md")


def test_every_command_in_the_readme_exists() -> None:
    typed = re.compile(r"(?m)(?:`|^ {4})merge-search ((?:plan )?[a-z-]+)")
    shown = set(typed.findall(read(ROOT / "README.md")))
    commands = {" ".join(command) for command in generate.command_paths()}
    assert shown and shown <= commands


@pytest.mark.parametrize("path", sorted((ROOT / "runs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_config_is_accepted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGENET", "images")
    for name in ("COCO", "CAMERAS"):
        monkeypatch.setenv(name, "images")
    assert load_config(path).name == path.stem


def yaml_blocks(page: Path) -> list[Any]:
    return re.findall(r"```yaml\n(.*?)```", read(page), flags=re.DOTALL)


def test_the_annotated_config_shows_the_defaults(tmp_path: Path) -> None:
    (block,) = yaml_blocks(DOCS / "reference/config.md")
    file = tmp_path / "documented.yaml"
    file.write_text(block, encoding="utf-8")
    config = load_config(file)
    defaults = load_config(file, ["search={}", "verify={}", "statistics={}", "mlflow={}"])
    assert config.search == defaults.search
    assert config.verify == defaults.verify
    assert config.statistics == defaults.statistics
    assert config.mlflow == defaults.mlflow
    split = config.split
    assert split is not None
    device = {"memory": split.device.memory, "macs": split.device.macs}
    assert split == SplitConfig.model_validate({"device": device})
    watch = config.watch
    assert watch is not None
    assert watch == WatchConfig(interval=watch.interval, cameras=watch.cameras)


def test_the_watch_section_in_the_tutorial_is_accepted(tmp_path: Path) -> None:
    (block,) = yaml_blocks(DOCS / "tutorial/5-watch-cameras.md")
    file = tmp_path / "street-watch.yaml"
    shipped = yaml.safe_load(read(ROOT / "runs/street-watch.yaml"))
    file.write_text(yaml.safe_dump(shipped | yaml.safe_load(block)), encoding="utf-8")
    config = load_config(file)
    assert config.watch is not None and config.promotion.by == "either"
    assert set(config.watch.cameras) == {"gate", "yard", "street", "model"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", read(page)):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_is_in_the_navigation() -> None:
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    listed = re.findall(r"(?m)^\s+- (?:\w+: )?(\S+\.md)$", read(DOCS / "site/mkdocs.yml"))
    assert sorted(listed) == sorted(pages)


@pytest.mark.parametrize(
    ("html", "loads"),
    [
        ('<script src="https://cdn.example/x.js"></script>', True),
        ("<img src=//cdn.example/x.png>", True),
        ('<link rel="stylesheet" href="https://fonts.example/css">', True),
        ('<link rel="stylesheet" href="assets/main.css">', False),
        ('<a href="https://example.org">a link that a reader may follow</a>', False),
    ],
)
def test_a_page_that_loads_from_another_host_is_noticed(html: str, loads: bool) -> None:
    assert bool(offline.foreign(html)) == loads


def test_documented_python_examples_are_valid_syntax() -> None:
    for page in PAGES:
        for block in re.findall(r"```python\n(.*?)```", read(page), flags=re.DOTALL):
            ast.parse(block, page.name)


def test_contributing_has_a_row_for_every_package() -> None:
    layers = drawings.layers(ROOT)
    rows = re.findall(r"(?m)^\| (\d+) \| `([\w/]+)` \|", read(ROOT / "CONTRIBUTING.md"))
    floors = {f"search/{package}": n for n, floor in enumerate(layers, 1) for package in floor}
    assert {package: int(floor) for floor, package in rows} == floors | {"spaces": 0}


def test_the_readme_has_at_most_120_lines() -> None:
    assert len(read(ROOT / "README.md").splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_source_files_named_in_the_documentation_exist(page: Path) -> None:
    paths = re.findall(r"\b((?:bench|docs|search|spaces|tests|runs)/[\w/.-]+\.\w+)\b", read(page))
    produced = {path for path in paths if path.startswith("runs/out/")}
    missing = sorted(path for path in set(paths) - produced if not (ROOT / path).exists())
    assert missing == []


def test_the_api_page_has_every_public_name() -> None:
    shown = re.findall(r"(?m)^::: (\S+)$", read(DOCS / "reference/api.md"))
    public = {f"search.{name}" for name in search.__all__}
    public |= {f"spaces.{name}" for name in spaces.__all__ if name not in search.__all__}
    assert sorted(shown) == sorted(public)
