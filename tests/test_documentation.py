"""The documentation's links, options, settings, tables and commands, held against what is there."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

import batch_pipeline
from batch_pipeline.cli.group import EXIT_CODES, VERBS, WITHOUT_PIPELINE, Verbs
from batch_pipeline.cli.options import SettingOption
from batch_pipeline.config import OPEN, default_values, load_settings, variable_of
from batch_pipeline.localbatch.client import stop
from batch_pipeline.pipeline.step import Parameter
from batch_pipeline.pool.cli.group import POOL_VERBS
from batch_pipeline.pool.moves import LEGAL
from batch_pipeline.pool.task import TaskState
from batch_pipeline.records.attempt_row import COLUMNS
from batch_pipeline.wire.contract import ContainerExit, EndReason, Variable
from main import Fusions
from scripts import api_page

pytestmark = pytest.mark.repository

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    *sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("docs/**/*.md")),
)
#: Page of the reference -> its text.
REFERENCE = {page.name: page.read_text() for page in sorted((ROOT / "docs" / "reference").glob("*.md"))}
POOL_PAGE = "docs/pool.md"
#: Ids differ from run to run, and so does the folder.
_CHANGING = re.compile(r"\b(01[0-9A-HJKMNP-TV-Z]{24}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})\b")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text()
    return [
        Block(page=page, line=text.count("\n", 0, found.start()) + 1, language=found[1], text=found[2])
        for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    ]


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def section(title: str) -> str:
    """A section of the reference, from its heading to the next of its rank or above."""
    pages = (
        re.split(rf"^(#+) {re.escape(title)}$", page, maxsplit=1, flags=re.MULTILINE) for page in REFERENCE.values()
    )
    rank, rest = next(parts[1:] for parts in pages if len(parts) > 1)
    return re.split(rf"^#{{1,{len(rank)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The rows of the tables in a text, without headers."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in cells if row[0] not in ("option", "setting", "code", "variable", "what")]


# Links and code.


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            lost.append(target)
    assert not lost


@pytest.mark.parametrize("page", PAGES)
def test_python_in_the_pages_compiles(page: str) -> None:
    for block in blocks(page):
        if block.language == "python":
            ast.parse(block.text, filename=f"{page}, line {block.line}")


@pytest.mark.parametrize("page", PAGES)
def test_settings_files_in_the_pages_are_accepted_with_each_of_their_presets(page: str, tmp_path: Path) -> None:
    file = tmp_path / "batch_pipeline.toml"
    for block in blocks(page):
        if block.language == "toml":
            file.write_text(block.text)
            for preset in ("", *tomllib.loads(block.text).get("preset", {})):
                load_settings({"preset": preset}, config=file, environ={})


#: Imports modules, wires the pipelines among what they declare, and prints the steps of each.
_WIRE = """
import importlib, sys
from batch_pipeline import WorkflowTask
from batch_pipeline.pipeline.workflow import Graph
declared = [item for name in sys.argv[1:] for item in vars(importlib.import_module(name)).values()]
for item in (item for item in declared if isinstance(item, type) and issubclass(item, WorkflowTask)):
    if item is not WorkflowTask and "workflow" in vars(item):
        print(item.__name__, *Graph.of(item).names)
"""
WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]


def modules_of(page: str, folder: Path) -> list[str]:
    """Writes each block of Python as a module, and returns their names."""
    names = []
    for block in blocks(page):
        if block.language == "python":
            names.append(f"{'test_page' if 'def test_' in block.text else 'page'}_{block.line}")
            (folder / f"{names[-1]}.py").write_text(f"from __future__ import annotations\n\n{block.text}")
    return names


def run_python(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_pipelines_in_the_pages_are_what_the_package_accepts(page: str, tmp_path: Path) -> None:
    """Each block of Python can be imported, and each pipeline among them wired."""
    wired = run_python(tmp_path, "-c", _WIRE, *modules_of(page, tmp_path)).splitlines()
    written = "\n".join(block.text for block in blocks(page) if block.language == "python")
    assert len(wired) == len(re.findall(r"^    def workflow\(", written, re.MULTILINE))


@pytest.mark.parametrize("page", ["README.md", "docs/from-nextflow.md", "docs/from-snakemake.md"])
def test_pages_for_newcomers_show_the_pipeline_of_variants(page: str, tmp_path: Path) -> None:
    assert run_python(tmp_path, "-c", _WIRE, *modules_of(page, tmp_path)) == "Variants align call merge\n"


@pytest.mark.parametrize("page", PAGES)
def test_flowcharts_are_what_the_verb_dag_draws(page: str, tmp_path: Path) -> None:
    """Each is under a comment with its command, which has a file of the repository or the page's first pipeline."""
    text = (ROOT / page).read_text()
    drawn = re.findall(r"^<!-- python (\S+) dag -->\n```mermaid\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(drawn) == len(re.findall(r"^flowchart", text, re.MULTILINE))
    for name, flowchart in drawn:
        file = ROOT / name
        if not file.exists():
            code = next(block.text for block in blocks(page) if ".main()" in block.text)
            file = tmp_path / name
            file.write_text(code)
        assert run_python(tmp_path, str(file), "dag") == flowchart, f"paste the output of: python {name} dag"


def test_the_tests_in_the_pages_pass(tmp_path: Path) -> None:
    modules = modules_of("docs/how-to-write-a-pipeline.md", tmp_path)
    tests = [f"{name}.py" for name in modules if name.startswith("test_")]
    assert tests
    run_python(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)


# The names of the package.


def test_the_page_of_names_is_written_anew() -> None:
    assert api_page.PAGE.read_text() == api_page.page(), "run `make map`"


def test_every_public_name_has_a_section_and_every_attribute_a_meaning() -> None:
    text = api_page.page()
    assert sorted(re.findall(r"^### (\w+)$", text, re.MULTILINE)) == sorted(batch_pipeline.__all__)
    table = [row for row in rows(text) if row[0] != "attribute"]
    assert ["`COHORT`", "", "`'cohort'`", "One job after all samples: the gather."] in table
    assert [
        "`sample`",
        "`str`",
        "",
        "Name of the sample; of a group that of the group, of a gather `_cohort`.",
    ] in table
    assert [row[0] for row in table if not row[3]] == []


def test_a_sentinel_is_no_text_of_the_page_of_names() -> None:
    sentinel = object()

    def column(name: str = "", default: Any = sentinel) -> None: ...

    assert api_page.signature_of(column) == "(name: str = '', default: Any = …)"


def test_the_page_of_names_has_signatures_and_methods() -> None:
    text = api_page.page()
    assert (
        "`Output(*files: str, many: bool = False, optional: bool = False, temporary: bool = False, help: str = '')`"
        in text
    )
    assert "#### Job.input\n\n`input(port: str) -> Path`\n\nThe one file of an input port." in text
    assert "- stdin: a file that it reads.\n" in text


# The command line.


#: Each verb, and instead of the pool's group its own verbs.
COMMANDS = [*(name for name in VERBS if name != "pool"), *(f"pool {name}" for name in POOL_VERBS)]


def verb(name: str) -> click.Command:
    made: click.Command | None = Verbs(Fusions, [])
    for word in name.split():
        assert isinstance(made, click.Group)
        made = made.get_command(click.Context(made), word)
    assert made is not None
    return made


def options_of(name: str) -> list[click.Option]:
    return [param for param in verb(name).params if isinstance(param, click.Option) and not param.hidden]


def documented(name: str) -> dict[str, list[str]]:
    """Flag -> the row that documents it, in the verb's section or in one that it names as shared."""
    own = section(name)
    pages = "\n".join((REFERENCE["options.md"], REFERENCE["pool.md"]))
    shared = [title for title in re.findall(r"^## (.+)$", pages, re.MULTILINE) if _link(title) in own]
    found: dict[str, list[str]] = {}
    for row in rows("\n".join((own, *map(section, shared)))):
        found |= dict.fromkeys(re.findall(r"`(--?[a-z][\w-]*)`", row[0]), row)
    return found


def _link(title: str) -> str:
    return f"#{title.lower().replace(' ', '-')})"


def test_every_verb_has_a_section() -> None:
    titles = re.findall(r"^## (.+)$", "\n".join((REFERENCE["commands.md"], REFERENCE["looking.md"])), re.MULTILINE)
    assert sorted([*titles, "pool"]) == sorted(VERBS)
    assert all(f"`{name}`" in (ROOT / "docs" / "reference.md").read_text() for name in VERBS if name != "pool")


def test_every_verb_of_the_pool_has_a_section() -> None:
    titles = re.findall(r"^## (.+)$", REFERENCE["pool.md"], re.MULTILINE)
    assert titles == [
        *(f"pool {name}" for name in POOL_VERBS),
        "Moves of tasks",
        "The pool",
        "Which tasks",
        "URLs of pools",
    ]


def test_the_verbs_without_a_pipeline_are_named() -> None:
    introduction = section("Command line").split("\n## ", 1)[0]
    assert all(f"`{name}`" in introduction for name in WITHOUT_PIPELINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_options_of_a_verb_are_those_documented(name: str) -> None:
    flags = {flag for option in options_of(name) for flag in (*option.opts, *option.secondary_opts)}
    assert set(documented(name)) == flags


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_that_stands_for_a_setting_names_it(name: str) -> None:
    found = documented(name)
    for option in options_of(name):
        key = option.key if isinstance(option, SettingOption) else ""
        assert found[option.opts[0]][1] == (f"`{key}`" if key else ""), option.opts[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_choices_of_an_option_are_those_documented(name: str) -> None:
    found = documented(name)
    for option in options_of(name):
        written = re.search(r"` `([^`]+)`", found[option.opts[0]][0])
        if isinstance(option.type, click.Choice) and written and "|" in written[1]:
            assert written[1].split("\\|") == list(option.type.choices)


def test_every_parameter_of_the_fusion_steps_is_documented() -> None:
    declared = {
        f"--{name.replace('_', '-')}"
        for task in Fusions().tasks().values()
        for name in task.step_class.declared(Parameter)
    }
    flags = {
        flag for row in rows(section("Parameters of the fusion steps")) for flag in re.findall(r"`(--[^`]+)`", row[0])
    }
    assert declared <= flags


# Settings, codes, variables, keys.


def test_every_setting_is_documented_with_its_variable_and_default() -> None:
    table = {row[0].strip("`"): row for row in rows(section("Settings"))}
    defaults = {key: value for key, value in default_values().items() if not key.startswith(OPEN)}
    assert set(table) == set(defaults)
    for key, value in defaults.items():
        _, variable, default = table[key]
        assert variable == f"`{variable_of(key)}`"
        written = re.match(r"`([^`]*)`", default)
        if value != "":
            assert written, key
            assert written[1] == (str(value).lower() if isinstance(value, bool) else str(value))


def test_the_columns_of_attempts_are_documented_in_their_order() -> None:
    text = section("runs").split("### Attempts of a run", 1)[1]
    assert [name for row in rows(text) for name in re.findall(r"`(\w+)`", row[0])] == list(COLUMNS)


def test_the_exit_codes_of_a_command_are_documented() -> None:
    assert rows(section("Of a command")) == [[str(int(code)), text] for code, text in EXIT_CODES.items()]


def test_the_exit_codes_of_a_container_are_documented() -> None:
    assert [int(row[0]) for row in rows(section("Of a container"))] == [int(code) for code in ContainerExit]


def test_every_reason_is_documented() -> None:
    text = section("Why an attempt ended")
    assert [reason.value for reason in EndReason if f"`{reason.value}`" not in text] == []


def test_every_variable_of_a_job_is_documented() -> None:
    text = section("Environment of a job")
    names = [value for name, value in vars(Variable).items() if name.isupper()]
    assert names
    assert [name for name in names if f"`{name}`" not in text] == []


def test_every_place_in_the_store_is_documented() -> None:
    layout = ast.get_docstring(ast.parse((ROOT / "batch_pipeline" / "wire" / "layout.py").read_text())) or ""
    places = re.findall(r"^    (\S+?/)", layout, re.MULTILINE)
    text = section("Layout of the store")
    assert len(places) > 8
    assert [place for place in places if place not in text] == []


def test_the_changelog_tells_of_this_version() -> None:
    titles = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert {"Unreleased", "0.1.0"}.intersection(titles)


# Commands.


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command of a page, and the lines that the page shows of its output."""

    line: str
    shown: tuple[str, ...]
    where: str


def commands(page: str) -> Iterator[Command]:
    """The commands of blocks that run the example, and of the whole page of the pool; `<<'END'` goes on to END."""
    for block in blocks(page):
        wanted = "python examples/words.py" in block.text or page == POOL_PAGE
        if block.language not in ("console", "sh") or not wanted:
            continue
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            line, *shown = part.rstrip("\n").split("\n")
            if line.endswith("<<'END'"):
                line, shown = "\n".join((line, *shown)), []
            yield Command(line=line, shown=tuple(shown), where=f"{page}, line {block.line}")


WITH_COMMANDS = [page for page in PAGES if list(commands(page))]


def test_the_page_of_the_pool_runs_the_examples_of_pyanamo_and_picas() -> None:
    lines = [command.line for command in commands(POOL_PAGE)]
    for name in ("import-testing.txt", "import-nested-testing.txt", "quickExample.txt"):
        assert any(line.startswith(f"batch-pipeline pool import {name}") for line in lines)


def test_the_page_of_the_pool_has_every_move() -> None:
    told = {
        move: (row[1], row[2])
        for row in rows((ROOT / POOL_PAGE).read_text().split("## The protocol")[1])
        for move in row[0].split(", ")
    }
    names = {state: state.value for state in TaskState} | {None: "–"}
    for move, (sources, targets) in LEGAL.items():
        for text, states in zip(told[move.value], (sources, targets), strict=True):
            known = {names[state] for state in states}
            assert known == _states(text), move.value


def _states(text: str) -> set[str]:
    every = {state.value for state in TaskState}
    words = text.split(", ")
    any_of = every - ({"held"} if "any but held" in words else set()) if words[0].startswith("any") else set()
    return any_of | {word for word in words if not word.startswith("any")}


def test_a_page_runs_the_example() -> None:
    assert "docs/how-to-write-a-pipeline.md" in WITH_COMMANDS


@pytest.mark.engine
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_the_commands_of_a_page_print_what_it_shows(page: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    state = tmp_path / "state"
    folder = os.path.dirname(sys.executable)
    environment = {
        **os.environ,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "120",
        "BATCH_PIPELINE__EMBEDDED__STATE": str(state),
        "BATCH_PIPELINE__EMBEDDED__VCPUS": "2",
    }
    try:
        for command in commands(page):
            ran = subprocess.run(
                ["bash", "-c", command.line], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            assert ran.returncode == 0, f"{command.where}: {command.line}\n{ran.stderr}"
            if exported := re.match(r"export (\w+)=([^;\s]+)", command.line):
                environment[exported[1]] = exported[2]
            _assert_shown(command, ran.stdout if page != POOL_PAGE else ran.stdout + ran.stderr)
    finally:
        stop(state)


def _assert_shown(command: Command, printed: str) -> None:
    """Every line that the page shows was printed, in that order; `…` stands for what was left out."""
    lines = iter(_CHANGING.sub("ID", line).rstrip() for line in printed.splitlines())
    for shown in command.shown:
        wanted = _CHANGING.sub("ID", shown).rstrip()
        if wanted in ("", "…"):
            continue
        assert any(line == wanted for line in lines), f"{command.where}: {command.line} did not print {shown!r}"
