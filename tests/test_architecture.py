"""ARCHITECTURE.md against the tree, and its rules against the imports."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from scripts import file_map, measures

#: Each process of a session would else read all files again.
pytestmark = [pytest.mark.repository, pytest.mark.xdist_group("architecture")]

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "batch_pipeline"

#: Room of the core -> the rooms that it may import, all of them above it here. `pipeline` hands over to `cli` in one
#: place, see below.
CORE: dict[str, set[str]] = {
    "wire": set(),
    "log": {"wire"},
    "settings": {"wire"},
    "settings_file": {"wire"},
    "config": {"wire", "settings", "settings_file"},
    "container": {"wire"},
    "localbatch": {"wire", "container"},
    "pipeline": {"wire"},
    "__init__": {"wire", "pipeline"},
    "backends": {"wire", "log", "config", "pipeline", "localbatch"},
    "records": {"wire", "log", "config", "pipeline", "backends"},
    "luigi_adapter": {"wire", "pipeline", "records"},
    "run": {"wire", "log", "config", "pipeline", "backends", "records", "luigi_adapter"},
    "provenance": {"wire", "records", "run"},
    "report": {"wire", "config", "pipeline", "backends", "records", "run", "provenance"},
    "demo": {"wire", "pipeline"},
    "cli": {
        "wire",
        "log",
        "settings_file",
        "config",
        "pipeline",
        "backends",
        "records",
        "luigi_adapter",
        "run",
        "provenance",
        "report",
        "demo",
    },
    "__main__": {"cli"},
}
#: Wing -> the rooms of the core that it may import. A wing is a whole capability that the core does without.
WINGS: dict[str, set[str]] = {
    "pool": {"wire", "log", "config", "pipeline", "backends", "records", "run", "report", "cli"},
    "access": {"wire", "log", "config", "pipeline", "backends", "records", "run", "report", "cli"},
    "deploy": {"wire", "config", "pipeline", "backends", "records", "run", "report", "cli"},
}
ALLOWED = CORE | WINGS
#: Where alone the core reaches the wings: the table of their verbs, and the backend of a run whose cells pilots do.
DOORS = (f"{PACKAGE}/cli/wings.py", f"{PACKAGE}/run/backend.py")
MOST_LINES = 450
#: A folder with more modules has them all, in the order in which they are read, in the docstring of its `__init__.py`.
MOST_MODULES = 15
#: More lines than that need a reason, in the module's docstring.
USUAL_LINES = 300
REASON = re.compile(r"\b([Ll]onger than|longer for|little long for|More than 300 lines)|longer than others")
MOST_LINES_OF_A_FUNCTION = 40
MOST_PROTOCOL_METHODS = 7
#: One class of methods for a whole store, which two implementations share.
LARGE_PROTOCOLS = {"container/files.py:Files"}
LEAST_DOCUMENTED = 0.99
MOST_CATCH_ALLS = 5
#: Written in two halves, so that this file does not find itself.
#: A state of the pool's tasks has the name that PyAnamo and PiCaS gave it.
STATE = r"(?<!State\.)", r"(?! = \"todo\")"
UNFINISHED = re.compile(STATE[0] + r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")) + r")\b" + STATE[1])


@dataclass(frozen=True, kw_only=True)
class Import:
    """One name that a file imports."""

    file: str
    name: str
    line: int
    #: Whether it is at the top of the module, run when that is imported.
    eager: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.name}"


@cache
def tracked(*patterns: str) -> tuple[str, ...]:
    """Files of the repository that are there, by git's patterns."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--", *patterns], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return tuple(name for name in listed if (ROOT / name).exists())


@cache
def parsed(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_bytes(), filename=file)


@cache
def imports_of(file: str) -> tuple[Import, ...]:
    """Everything that a file imports, `from a import b` as `a.b`; what only the type checker sees is left out."""
    return tuple(_imports_of(file))


def _imports_of(file: str) -> Iterator[Import]:
    module = parsed(file)
    top = {id(node) for node in module.body}
    for node in _statements(module):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}:{node.lineno} imports relatively; name the whole module."
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (Import(file=file, name=name, line=node.lineno, eager=id(node) in top) for name in names)


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """All statements below a node but those that only the type checker sees; no expression has one."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.stmt):
            yield child
        if isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
            yield from _statements(child)


def imports_in(*patterns: str) -> list[Import]:
    return [found for file in tracked(*patterns) if file.endswith(".py") for found in imports_of(file)]


def part_of(file: str) -> str:
    """`run` for batch_pipeline/run/driver.py."""
    return Path(file).parts[1].removesuffix(".py")


def is_of(name: str, *packages: str) -> bool:
    return name.split(".")[0] in packages


def test_every_file_has_one_line_in_the_architecture() -> None:
    described, folders = entries()
    files = [name for name in tracked() if not name.startswith("tests/")]
    undescribed = [name for name in files if name not in described and not name.startswith(tuple(folders))]
    gone = sorted(name for name in described if name not in files)
    empty = sorted(folder for folder in folders if not tracked(folder))
    assert not undescribed, f"ARCHITECTURE.md has no line for {undescribed}."
    assert not gone, f"ARCHITECTURE.md has a line for {gone}, which is not there."
    assert not empty, f"ARCHITECTURE.md has a line for {empty}, which is not there."


def test_the_lines_of_files_are_those_of_their_docstrings() -> None:
    page = file_map.PAGE.read_text(encoding="utf-8")
    assert file_map.mapped(page, file_map.tracked()) == page, "ARCHITECTURE.md is not as `make map` writes it."


def test_a_file_that_came_is_listed_and_one_that_went_is_not() -> None:
    page = "# Page\n\n### `scripts/`\n\nBy hand.\n\n- `gone.py`: Was there.\n- `base_image.sh`: Makes an image.\n"
    files = {"scripts/file_map.py", "scripts/base_image.sh"}
    made = file_map.mapped(page, files)
    assert "gone" not in made
    assert "By hand.\n\n- `base_image.sh`: Makes an image.\n- `file_map.py`: Writes the list of files" in made


def test_every_folder_of_tests_has_one_line_in_the_architecture() -> None:
    _, folders = entries()
    named = {folder.removeprefix("tests/").rstrip("/") for folder in folders if folder.startswith("tests/")}
    named |= {name.removeprefix("tests/") for name in entries(tests=True)[0]}
    there = {Path(name).parts[1] for name in tracked("tests/")}
    assert there == named


def entries(*, tests: bool = False) -> tuple[list[str], list[str]]:
    """Files and folders that ARCHITECTURE.md has a line for; those of `tests/` only when asked for."""
    files: list[str] = []
    folders: list[str] = []
    section = ""
    for line in (ROOT / "ARCHITECTURE.md").read_text().splitlines():
        if heading := re.fullmatch(r"### `(.+/)`", line):
            section = heading[1].removeprefix("./")
        elif entry := re.match(r"- `([^`]+)`: \S", line):
            name = section + entry[1]
            if name.endswith("/"):
                folders.append(name)
            elif name.startswith("tests/") == tests:
                files.append(name)
    assert len(files) == len(set(files)), "ARCHITECTURE.md has two lines for one file."
    return files, folders


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_go_one_way(part: str) -> None:
    wrong = []
    for found in imports_in(f"{PACKAGE}/"):
        if part_of(found.file) != part or not is_of(found.name, PACKAGE):
            continue
        # `WorkflowTask.main` hands itself to the command line, which is imported no sooner than then.
        if found.name == f"{PACKAGE}.cli.run_command_line" and found.file.endswith("workflow.py") and not found.eager:
            continue
        target = found.name.partition(".")[2].split(".")[0]
        if target in WINGS and found.file in DOORS and not found.eager:
            continue
        # The package itself holds nothing but names that are loaded at first use.
        if target not in ALLOWED[part] | {part, "", "__version__"}:
            wrong.append(str(found))
    assert not wrong


def test_every_part_of_the_package_has_its_place_in_the_order() -> None:
    assert {part_of(file) for file in tracked(f"{PACKAGE}/") if file.endswith(".py")} == set(ALLOWED)
    rooms = list(CORE)
    assert not [room for number, room in enumerate(rooms) if not CORE[room] <= set(rooms[:number])]
    assert not [wing for wing, rooms_of_core in WINGS.items() if not rooms_of_core <= set(rooms)]


def test_the_core_names_modules_of_wings_in_its_two_doors_alone() -> None:
    """Names in strings, for `import_module` say, are no imports that the test above sees."""
    named = [
        f"{file}:{node.lineno}"
        for file in tracked(f"{PACKAGE}/")
        if file.endswith(".py") and part_of(file) in CORE and file not in DOORS
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.Constant) and str(node.value).startswith(tuple(f"{PACKAGE}.{wing}" for wing in WINGS))
    ]
    assert not named


def test_the_embedded_batch_is_reached_through_its_client_alone() -> None:
    """Everything else speaks AWS's API to it."""
    reached = [
        found
        for found in imports_in(f"{PACKAGE}/")
        if part_of(found.file) != "localbatch"
        and found.name.startswith(f"{PACKAGE}.localbatch")
        and not found.name.startswith(f"{PACKAGE}.localbatch.client")
    ]
    assert not list(map(str, reached))


def test_folders_of_the_embedded_batch_import_only_earlier_ones() -> None:
    order = ("engine", "api", "hosts")
    wrong = []
    for found in imports_in(*(f"{PACKAGE}/localbatch/{folder}/" for folder in order)):
        target = found.name.removeprefix(f"{PACKAGE}.localbatch.").split(".")[0]
        earlier = order[: order.index(Path(found.file).parts[2]) + 1]
        if found.name.startswith(f"{PACKAGE}.localbatch.") and target not in earlier:
            wrong.append(str(found))
    assert not wrong


@pytest.mark.parametrize("part", ["wire", "container"])
def test_what_runs_in_a_container_needs_the_standard_library_and_obstore_alone(part: str) -> None:
    """But what runs the tools of a step, which is imported when a step runs one."""
    foreign = [
        str(found)
        for found in imports_in(f"{PACKAGE}/{part}/")
        if not is_of(found.name, PACKAGE, "obstore", *sys.stdlib_module_names)
        and (found.file, found.name, found.eager) != (f"{PACKAGE}/wire/tools.py", "sh", False)
    ]
    assert not foreign


def test_what_a_step_imports_needs_the_standard_library_alone() -> None:
    sides = ("__init__", "pipeline/step", "pipeline/command", "wire/job", "wire/command")
    files = [f"{PACKAGE}/{name}.py" for name in sides]
    foreign = [str(found) for found in imports_in(*files) if not is_of(found.name, PACKAGE, *sys.stdlib_module_names)]
    assert not foreign


def test_steps_import_the_pipelines_words_the_standard_library_and_sh() -> None:
    # The packages of a gather of the fusion pipeline, which its image has and the command line has not.
    gathers = ("numpy", "polars")
    known = ("sh", "steps", *gathers, *sys.stdlib_module_names)
    wrong = []
    for found in imports_in("steps/", "examples/", "main.py"):
        # Beside the words of the package, the errors that it knows a meaning for.
        inner = found.name.count(".") > 1 and not found.name.startswith(f"{PACKAGE}.wire.errors.")
        if (inner and is_of(found.name, PACKAGE)) or not is_of(found.name, PACKAGE, *known):
            wrong.append(str(found))
        if found.eager and is_of(found.name, *gathers):
            wrong.append(str(found))
    assert not wrong


def test_boto_stays_behind_its_borders() -> None:
    allowed = (
        f"{PACKAGE}/backends/aws_clients.py",
        f"{PACKAGE}/backends/credentials.py",
        f"{PACKAGE}/deploy/",
        f"{PACKAGE}/localbatch/",
        # A pool needs no backend, and pilots anywhere import no more than their store does.
        f"{PACKAGE}/pool/stores/dynamodb/table.py",
    )
    wrong = [
        str(found)
        for found in imports_in(f"{PACKAGE}/", "steps/", "examples/", "main.py")
        if is_of(found.name, "boto3", "botocore") and not found.file.startswith(allowed)
    ]
    assert not wrong


def test_click_stays_in_the_command_line() -> None:
    # The simulator has a small command of its own, and imports click when that is called.
    wrong = [
        str(found)
        for found in imports_in(f"{PACKAGE}/")
        if is_of(found.name, "click", "rich")
        and "/cli/" not in found.file
        and (found.eager or not found.file.endswith("demo/simulate.py"))
    ]
    assert not wrong


def test_what_a_service_is_made_of_stays_in_it() -> None:
    """Whoever only asks one, and every `--help`, starts without it."""
    heavy = ("fastapi", "starlette", "uvicorn", "jwt", "jinja2")
    found = [item for item in imports_in(f"{PACKAGE}/", "steps/", "examples/", "main.py") if is_of(item.name, *heavy)]
    assert found
    service = f"{PACKAGE}/access/service/"
    assert not [str(item) for item in found if not item.file.startswith(service)]
    eager = [
        item
        for item in imports_in(f"{PACKAGE}/")
        if item.eager and item.name.startswith(f"{PACKAGE}.access.service") and not item.file.startswith(service)
    ]
    assert not list(map(str, eager))


def test_luigi_stays_in_its_adapter() -> None:
    wrong = [
        str(found)
        for found in imports_in(f"{PACKAGE}/", "steps/", "examples/", "main.py")
        if is_of(found.name, "luigi", "sciluigi") and not found.file.startswith(f"{PACKAGE}/luigi_adapter/")
    ]
    assert not wrong


def test_no_module_is_long() -> None:
    lengths = {file: len((ROOT / file).read_bytes().splitlines()) for file in tracked(f"{PACKAGE}/", "steps/")}
    long = {file: length for file, length in lengths.items() if file.endswith(".py") and length > MOST_LINES}
    assert not long


def test_a_module_that_is_longer_than_most_says_why() -> None:
    assert not [
        module.name
        for module in measures.modules()
        if module.lines > USUAL_LINES and not REASON.search(" ".join(module.docstring.split()))
    ]


def test_a_folder_of_many_modules_lists_them_and_says_why_it_is_one() -> None:
    folders: dict[Path, list[str]] = {}
    for file in tracked(f"{PACKAGE}/"):
        if file.endswith(".py"):
            folders.setdefault(Path(file).parent, []).append(Path(file).stem)
    large = {folder: names for folder, names in folders.items() if len(names) > MOST_MODULES}
    assert large
    for folder, names in large.items():
        text = ast.get_docstring(parsed(str(folder / "__init__.py"))) or ""
        unnamed = {name for name in names if not re.search(rf"\b{name}\b", text)} - {"__init__"}
        assert not unnamed, f"The docstring of {folder} does not name {sorted(unnamed)}."
        assert re.search("flat|inside", text), f"{folder} has {len(names)} modules, and its docstring does not say why."


def test_no_function_is_long() -> None:
    functions = [each for module in measures.modules() for each in measures.function_lengths(module)]
    lengths = [each.lines for each in functions]
    assert not [each.place for each in functions if each.lines > MOST_LINES_OF_A_FUNCTION]
    assert (measures.percentile(lengths, 0.5), measures.percentile(lengths, 0.9)) <= (7, 25)


def test_what_is_public_has_docstrings() -> None:
    documented = [has for module in measures.modules() for has in measures.public_docstrings(module)]
    assert sum(documented) / len(documented) >= LEAST_DOCUMENTED


def test_protocols_are_small() -> None:
    counts = dict(pair for module in measures.modules() for pair in measures.protocols(module))
    assert {name for name, count in counts.items() if count > MOST_PROTOCOL_METHODS} == LARGE_PROTOCOLS


def test_everything_is_caught_at_few_borders_only() -> None:
    handlers = [
        (f"{file}:{node.lineno}", node.type)
        for file in tracked(f"{PACKAGE}/", "steps/", "examples/")
        if file.endswith(".py")
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.ExceptHandler)
    ]
    bare = [place for place, kind in handlers if kind is None]
    catch_alls = [
        place
        for place, kind in handlers
        if kind is not None and {"Exception", "BaseException"} & {ast.unparse(each) for each in ast.walk(kind)}
    ]
    assert not bare
    assert 0 < len(catch_alls) <= MOST_CATCH_ALLS, catch_alls


def test_annotations_are_never_evaluated() -> None:
    late = [
        file
        for file in tracked("*.py")
        if "\nfrom __future__ import annotations\n" not in f"\n{(ROOT / file).read_text()}" and parsed(file).body[1:]
    ]
    assert not late


def test_nothing_is_left_for_later() -> None:
    found = []
    for file in tracked():
        if Path(file).suffix not in (".py", ".sh", ".md", ".toml", ".json") and Path(file).name != "Makefile":
            continue
        for number, line in enumerate((ROOT / file).read_text().splitlines(), 1):
            if UNFINISHED.search(line):
                found.append(f"{file}:{number}")
    assert not found


def test_the_lock_file_names_no_index() -> None:
    text = (ROOT / "Pipfile.lock").read_text()
    lock = json.loads(text)
    assert lock["_meta"]["sources"] == []
    assert "://" not in text
    assert all(
        package["hashes"]
        for group in lock
        if group != "_meta"
        for package in lock[group].values()
        if "version" in package
    )
