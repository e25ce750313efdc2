"""The documentation names only what exists, and leaves out no verb, key or exit status."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from igniter_prof import errors
from igniter_prof.cli import VERBS, igprof
from igniter_prof.records import Load, Stopping, Sweep, SweepModel
from tests.unit.test_architecture import LEAVES, MAY_IMPORT

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
PAGE_IDS = [str(page.relative_to(ROOT)) for page in PAGES]
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)

FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
REPOSITORY_PATH = re.compile(
    r"(?<![\w/.-])(?:igniter_prof|scripts|plans|tests|docs|model_repository)/[\w./*-]*"
)
DOTTED = re.compile(r"\bigniter_prof(?:\.\w+)+")
ENTRY_POINT_GROUPS = {"igniter_prof.runtimes", "igniter_prof.monitors"}
SHELL_ENDS = {"|", "||", "&&", "&", ";", ">", ">>", "<", "#"}

# the records of a sweep file by the prefix that their keys have in docs/profile.md
SWEEP_RECORDS: dict[str, type[BaseModel]] = {
    "": Sweep,
    "models[].": SweepModel,
    "load.": Load,
    "stopping.": Stopping,
}


def _blocks(text: str) -> Iterator[str]:
    """Fenced blocks, and blocks that are indented by four blanks."""
    yield from FENCE.findall(text)
    outside = FENCE.sub("", text)
    for block in re.findall(r"(?:^ {4}\S.*\n?)+", outside, re.MULTILINE):
        yield re.sub(r"^ {4}", "", block, flags=re.MULTILINE)


def _commands(text: str) -> Iterator[list[str]]:
    """The words of every igprof command line, in blocks and in inline code."""
    lines = [
        line
        for block in _blocks(text)
        for line in block.replace("\\\n", " ").splitlines()
        if re.match(r"\s*(\$ )?igprof ", line)
    ]
    lines += [code for code in INLINE.findall(FENCE.sub("", text)) if code.startswith("igprof ")]
    for line in lines:
        words = shlex.split(line.strip().removeprefix("$ "), comments=True)
        end = next(
            (i for i, word in enumerate(words) if word in SHELL_ENDS or re.match(r"\d?>", word)),
            len(words),
        )
        yield words[1:end]


def _resolved(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words name, and the words after it. Raises LookupError: there is none."""
    context = click.Context(igprof)
    command: click.Command | None = igprof
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, words = words[0].rstrip(",;"), words[1:]
        if re.fullmatch(r"[A-Z]+", name):  # a placeholder, as in `igprof VERB --help`
            return command, words
        command = command.get_command(context, name)
        if command is None:
            raise LookupError(f"no '{name}'")
    assert command is not None
    return command, words


def _options(command: click.Command) -> set[str]:
    parameters = [*command.params, *igprof.params]
    return {name for each in parameters for name in (*each.opts, *each.secondary_opts)} | {
        "--help",
        "-h",
    }


def _wrong_in_commands(text: str) -> list[str]:
    wrong = []
    for words in _commands(text):
        try:
            command, rest = _resolved(words)
        except LookupError as error:
            wrong.append(f"igprof {' '.join(words)}: {error}")
            continue
        known = _options(command)
        named = [word.partition("=")[0].strip("[],") for word in rest if re.match(r"\[?--\w", word)]
        wrong += [f"igprof {' '.join(words)}: no {name}" for name in named if name not in known]
    return wrong


@EACH_PAGE
def test_every_command_line_exists(page: Path) -> None:
    assert _wrong_in_commands(page.read_text()) == []


def test_a_wrong_command_line_is_noticed() -> None:
    text = (
        "Use `igprof profle`.\n\n```console\n$ igprof fit profile --ouch x \\\n    --out=y\n```\n\n"
        "    igprof zoo biuld mlp | cat --number\n"
    )
    assert [line.rpartition(": ")[2] for line in _wrong_in_commands(text)] == [
        "no --ouch",
        "no 'biuld'",
        "no 'profle'",
    ]


def test_the_readme_has_commands() -> None:
    verbs = {words[0] for words in _commands((ROOT / "README.md").read_text()) if words}
    assert {"profile", "fit", "plan", "evaluate", "report"} <= verbs


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = FENCE.sub("", page.read_text())
    headings = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).replace(" ", "-")
        for heading in headings
    }


@EACH_PAGE
def test_every_relative_link_resolves(page: Path) -> None:
    wrong = []
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            wrong.append(target)
    assert wrong == []


@EACH_PAGE
def test_every_path_exists(page: Path) -> None:
    found = {path.rstrip(".") for path in REPOSITORY_PATH.findall(page.read_text())}
    assert [path for path in sorted(found) if not list(ROOT.glob(path.rstrip("/")))] == []


@EACH_PAGE
def test_every_dotted_name_exists(page: Path) -> None:
    missing = []
    for name in set(DOTTED.findall(page.read_text())) - ENTRY_POINT_GROUPS:
        place: Any = importlib.import_module("igniter_prof")
        path = "igniter_prof"
        for part in name.split(".")[1:]:
            path = f"{path}.{part}"
            if not hasattr(place, part):
                try:
                    importlib.import_module(path)
                except ImportError:
                    missing.append(name)
                    break
            place = getattr(place, part)
    assert missing == []


def test_the_package_table_is_that_of_the_code() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    rows = re.findall(r"^\| `(\w+)(?:\.py|/)` \|[^|]*\|([^|]*)\|$", text, re.MULTILINE)
    shown = {name: last.strip() for name, last in rows}
    assert {name for name, last in shown.items() if last == "leaf"} == LEAVES - {"__init__"}
    assert {
        name: set(re.findall(r"`(\w+)`", last))
        for name, last in shown.items()
        if last != "leaf" and name != "cli"
    } == MAY_IMPORT


def test_every_page_is_in_the_index() -> None:
    listed = set(LINK.findall((ROOT / "docs/index.md").read_text()))
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert pages <= listed


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs/decisions"
    listed = set(LINK.findall((folder / "README.md").read_text()))
    assert {page.name for page in folder.glob("[0-9]*.md")} == listed


def test_every_verb_is_documented() -> None:
    text = (ROOT / "docs/cli.md").read_text()
    assert [verb for verb in VERBS if f"`igprof {verb}" not in text] == []


def test_every_subcommand_is_documented() -> None:
    text = (ROOT / "docs/cli.md").read_text()
    context = click.Context(igprof)
    for verb in VERBS:
        command = igprof.get_command(context, verb)
        for name in command.commands if isinstance(command, click.Group) else ():
            assert re.search(rf"`(igprof {verb} )?{name}`", text), f"{verb} {name}"


def test_every_exit_status_is_documented() -> None:
    text = (ROOT / "docs/cli.md").read_text()
    classes = [errors.IgprofError, *errors.IgprofError.__subclasses__()]
    statuses = {0, errors.INTERRUPTED, *(each.exit_status for each in classes)}
    rows = {int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    assert rows == statuses


def test_every_environment_variable_is_documented() -> None:
    text = (ROOT / "docs/cli.md").read_text()
    code = "\n".join(path.read_text() for path in (ROOT / "igniter_prof").rglob("*.py"))
    assert [name for name in set(re.findall(r"\bIGPROF_[A-Z]+\b", code)) if name not in text] == []


def _documented_keys() -> dict[str, list[str]]:
    """The key tables of docs/profile.md: key to unit, default, meaning."""
    rows = re.findall(
        r"^\| `([\w.\[\]]+)` \|(.*)\|$", (ROOT / "docs/profile.md").read_text(), re.MULTILINE
    )
    cells = {key: [cell.strip() for cell in rest.split("|")] for key, rest in rows}
    return {key: values for key, values in cells.items() if len(values) == 3}


def _sweep_keys() -> Iterator[tuple[str, Any]]:
    for prefix, record in SWEEP_RECORDS.items():
        for name, field in record.model_fields.items():
            yield f"{prefix}{name}", field.default


def test_every_key_of_a_sweep_is_documented() -> None:
    assert set(_documented_keys()) == {key for key, _ in _sweep_keys()}


@pytest.mark.parametrize(("key", "default"), list(_sweep_keys()), ids=lambda value: str(value)[:30])
def test_the_default_of_a_key_is_documented(key: str, default: Any) -> None:
    shown = _documented_keys()[key][1].strip("`")
    if isinstance(default, BaseModel):
        return  # its parts have rows of their own
    if default is PydanticUndefined:
        assert shown == "required"
    elif default is None:
        assert shown == "none"
    elif isinstance(default, str):
        assert shown == default
    else:
        assert json.loads(shown) == (list(default) if isinstance(default, tuple) else default)
