"""The reference is complete, and the documents name only existing files and links."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slidelift.models.zoo.catalog import catalog
from slidelift.service import cli, errors
from slidelift.service.app import create_app
from slidelift.service.errors import CODES
from slidelift.service.jobs.job import JobState, ResultFormat
from slidelift.service.pipeline.options import BadTilePolicy
from slidelift.service.pipeline.progress import Stage
from slidelift.service.settings import Settings
from slidelift.service.tools import model_table

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = (ROOT / "docs" / "reference.md").read_text("utf-8")
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
NAMES_PATHS = ("ARCHITECTURE.md", "CONTRIBUTING.md")
A_PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)*/|[\w./-]+\.(?:py|toml|md|txt|yaml)")


def section(heading: str) -> str:
    """Return the text under a heading, up to the next heading."""
    match = re.search(rf"^(#+) `?{re.escape(heading)}`?\n(.*?)(?=^#{{1,3}} |\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert match, f"docs/reference.md has no section {heading}"
    return match[2]


def rows(heading: str) -> list[list[str]]:
    """Return the cells of a section's table without its header."""
    table = [line for line in section(heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))] for line in table[2:]]


def in_backticks(text: str) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)))


def commands(parser: argparse.ArgumentParser | None = None, prefix: str = "") -> dict[str, argparse.ArgumentParser]:
    """Return all commands and subcommands by their names."""
    parsers = {}
    for action in (parser or cli._parser())._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, below in action.choices.items():
                parsers |= {prefix + word: below, **commands(below, f"{prefix}{word} ")}
    return parsers


@pytest.fixture(scope="module")
def openapi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    app = create_app(Settings(data_dir=tmp_path_factory.mktemp("data")))
    yield app.openapi()
    app.state.context.store.close()


@pytest.mark.parametrize("command", commands())
def test_every_flag_of_a_command_is_documented_with_its_default(command: str) -> None:
    actions = commands()[command]._actions
    subcommands = argparse._SubParsersAction  # documented in their own sections
    shown = [action for action in actions if action.help != argparse.SUPPRESS and not isinstance(action, subcommands)]
    expected = {(action.option_strings or [action.metavar])[-1] for action in shown if action.dest != "help"}
    documented = {name: cells for cells in rows(f"slidelift {command}") for name in in_backticks(cells[0])}
    assert set(documented) == expected
    for action in shown:
        for value in action.choices or ():
            assert value in in_backticks(" ".join(documented[action.option_strings[-1]]))
        if action.option_strings and action.default not in (None, False, argparse.SUPPRESS):
            assert f"`{action.default}`" in documented[action.option_strings[-1]][1]


def test_the_table_of_systems_matches_recipes_and_cards() -> None:
    """To update the table: python -m slidelift.service.tools.model_table."""
    assert model_table.render() in (ROOT / "docs" / "models.md").read_text("utf-8")


def test_the_tables_of_gains_match_the_cards() -> None:
    """To update the tables: python -m slidelift.service.tools.model_table."""
    shipped = [card for card in catalog().values() if not card.imported and card.gains]
    assert model_table.gains_table(shipped) in (ROOT / "docs" / "models.md").read_text("utf-8")
    recommended = [card for card in shipped if card.effort]
    assert model_table.gains_table(recommended) in (ROOT / "README.md").read_text("utf-8")


def test_every_exit_code_is_documented() -> None:
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert {int(cells[0]) for cells in rows("Exit codes")} == codes


def test_every_setting_is_documented_with_its_default_and_reason() -> None:
    documented = {cells[0]: cells[1:] for cells in rows("Settings")}
    fields = Settings.model_fields
    assert list(documented) == [f"`SLIDELIFT_{name.upper()}`" for name in fields]
    for name, field in fields.items():
        default, reason = documented[f"`SLIDELIFT_{name.upper()}`"]
        assert default == f"`{field.default}`"
        assert reason


def test_every_problem_code_is_documented_with_its_status() -> None:
    documented = {cells[0]: (int(cells[1]), cells[2]) for cells in rows("Problem codes")}
    assert documented == {f"`{name}`": (code.status, code.title) for name, code in CODES.items()}


def test_every_address_is_documented_with_its_success(openapi: dict[str, Any]) -> None:
    documented = {(cells[0], cells[1].strip("`")): cells[2] for cells in rows("REST")}
    served = {
        (method.upper(), path): [status for status in operation["responses"] if status.isdigit()]
        for path, operations in openapi["paths"].items()
        for method, operation in operations.items()
    }
    assert set(documented) == set(served)
    for address, statuses in served.items():
        assert set(statuses) <= set(re.findall(r"\b\d{3}\b", documented[address])), address


def test_every_operation_is_documented_under_its_tag(openapi: dict[str, Any]) -> None:
    documented = {cells[0].strip("`"): in_backticks(cells[1]) for cells in rows("Operations")}
    served: dict[str, set[str]] = {}
    for operations in openapi["paths"].values():
        for operation in operations.values():
            served.setdefault(operation["tags"][0], set()).add(operation["operationId"])
    assert documented == served


def test_every_query_parameter_is_documented(openapi: dict[str, Any]) -> None:
    operations = [operation for methods in openapi["paths"].values() for operation in methods.values()]
    names = {one["name"] for op in operations for one in op.get("parameters", ()) if one["in"] == "query"}
    assert names <= in_backticks(section("REST"))


def test_every_member_of_every_json_object_is_documented(openapi: dict[str, Any]) -> None:
    for name, schema in openapi["components"]["schemas"].items():
        if "properties" in schema:
            missing = set(schema["properties"]) - in_backticks(section(name))
            assert not missing, f"{name}: {missing}"


@pytest.mark.parametrize(
    ("words", "heading"),
    [(JobState, "Job"), (Stage, "Job"), (ResultFormat, "JobRequest"), (BadTilePolicy, "JobRequest")],
)
def test_every_enumeration_value_of_the_api_is_documented(words: Any, heading: str) -> None:
    assert {str(word) for word in words} <= in_backticks(section(heading))


@pytest.mark.parametrize("page", NAMES_PATHS)
def test_every_path_that_is_named_exists(page: str) -> None:
    named = {token for token in in_backticks((ROOT / page).read_text("utf-8")) if A_PATH.fullmatch(token)}
    assert len(named) > 10
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_documents_has_a_target(page: Path) -> None:
    text = page.read_text("utf-8")
    headings = {re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-") for line in text.splitlines()}
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif "://" not in target:
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_the_changelog_names_the_version_of_the_package() -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert version
    assert version[1] in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_every_command_of_the_guarantees_selects_tests() -> None:
    commands = re.findall(r"`pytest ([^`]+)`", (ROOT / "README.md").read_text("utf-8"))
    assert len(commands) > 10
    for command in commands:
        paths, _, keyword = command.replace('"', "").partition(" -k ")
        keyword, *more = keyword.split() or [""]
        folders = [ROOT / path for path in (*paths.split(), *more)]
        files = [file for path in folders for file in (path.rglob("test_*.py") if path.is_dir() else [path])]
        names = [name for file in files for name in re.findall(r"def (test_\w+)", file.read_text("utf-8"))]
        assert any(keyword in name for name in names), command
