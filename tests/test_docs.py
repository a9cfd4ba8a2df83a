"""What the docs say of the commands is what the commands say of themselves."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from search.cli.main import main
from search.config.loading import load_config
from search.config.watch import WatchConfig

ROOT = Path(__file__).parent.parent


def commands() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [()]
    for name, command in sorted(main.commands.items()):
        found.append((name,))
        if isinstance(command, click.Group):
            found += [(name, inner) for inner in sorted(command.commands)]
    return found


def help_of(command: tuple[str, ...]) -> str:
    result = CliRunner().invoke(main, [*command, "--help"], prog_name="merge-search")
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_the_help_of_every_command_stands_in_the_docs(command: tuple[str, ...]) -> None:
    documented = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert help_of(command).strip() in documented


def test_every_command_that_the_readme_shows_exists() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"(?m)(?:`|^ {4})merge-search ((?:plan )?[a-z-]+)", readme))
    known = {" ".join(command) for command in commands()}
    assert shown and shown <= known


@pytest.mark.parametrize("path", sorted((ROOT / "runs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_config_is_accepted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGENET", "images")
    monkeypatch.setenv("COCO", "images")
    assert load_config(path).name == path.stem


def test_the_config_in_the_docs_is_accepted(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    file = tmp_path / "documented.yaml"
    file.write_text(block, encoding="utf-8")
    config = load_config(file)
    plain = load_config(
        file, ["search={}", "verify={}", "statistics={}", "mlflow={}"]
    )  # the values that the docs show are the defaults
    assert config.search == plain.search
    assert config.verify == plain.verify
    assert config.statistics == plain.statistics
    assert config.mlflow == plain.mlflow
    assert config.watch is not None
    known = config.watch
    assert known == WatchConfig(interval=known.interval, cameras=known.cameras)


def test_the_watch_in_the_docs_is_accepted(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "watch.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    file = tmp_path / "street-watch.yaml"
    shipped = yaml.safe_load((ROOT / "runs" / "street-watch.yaml").read_text(encoding="utf-8"))
    file.write_text(yaml.safe_dump(shipped | yaml.safe_load(block)), encoding="utf-8")
    config = load_config(file)
    assert config.watch is not None and config.promotion.by == "either"
    assert set(config.watch.cameras) == {"gate", "yard", "street", "model"}


def test_every_link_within_the_docs_leads_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
