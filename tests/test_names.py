"""Names of the package: one class name for one thing, names that say what a value is, one type for a name in a module.

Terms of the field that lead to code are held by `test_glossary.py`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

import pytest

from scripts import measures
from scripts.measures import PACKAGE, SourceModule

pytestmark = pytest.mark.repository

SOURCES = measures.modules()
#: Class names that stand for two things, and why.
DOUBLE_CLASSES = {
    # `workflow.Task` is a public name; `pool.Task` is what PiCaS, PyAnamo and every other task pool call theirs.
    "Task": ["pipeline/wiring.py", "pool/task.py"],
}
MOST_VAGUE_NAMES = 40
#: Parameters that are of two types in one module, and why.
TWO_TYPES = {
    # The placeholders of a template are texts.
    ("backends/definitions.py", "memory_mb"),
    # What completes the names of steps, and the steps.
    ("cli/options.py", "tasks"),
    ("config.py", "preset"),
    ("settings_file.py", "table"),
    # One of `text(value)`, `number(value)`.
    ("pool/stores/dynamodb/items.py", "value"),
    # Public constructors take names, and what is behind them the object that they make of it.
    ("pool/stores/couchdb/store.py", "database"),
    ("pool/stores/dynamodb/store.py", "table"),
    # An alias of a mapping.
    ("pool/stores/couchdb/documents.py", "document"),
    # Of all steps by name, and of one.
    ("provenance/rightsize.py", "now"),
    # A module by its name at the border, and as it was read behind it.
    ("pipeline/analysis/reachable.py", "module"),
    # Two sides of a comparison, whatever is compared.
    ("pipeline/fingerprint.py", "before"),
    ("pipeline/fingerprint.py", "after"),
    ("records/compare.py", "before"),
    ("records/compare.py", "after"),
}
#: What people search for, as they spell it, and a module that does it.
SEARCHED = {
    "heartbeat": "pool/pilots/settlement_queue.py",
    "rate limit": "backends/rate_limit.py",
    "exponential backoff": "backends/rate_limit.py",
    "exponential back-off": "wire/s3.py",
    "snapshot": "run/snapshot.py",
    "topological": "pipeline/workflow.py",
    "DAG": "pipeline/workflow.py",
    "lease": "run/lock.py",
    "fencing": "run/lock.py",
    "optimistic": "pool/stores/optimistic.py",
    "idempotent": "run/submit.py",
    "deduplicate": "run/live.py",
}
_FAMILIES = {"text", "number", "collection", "mapping", "function"}


def source(name: str, text: str) -> SourceModule:
    return SourceModule(path=PACKAGE / name, text=text, tree=ast.parse(text))


def test_one_class_name_stands_for_one_thing() -> None:
    assert {name: places for name, places in measures.class_names(SOURCES).items() if len(places) > 1} == DOUBLE_CLASSES


def test_names_say_what_a_value_is() -> None:
    vague = [place for module in SOURCES for place in measures.vague_names(module)]
    assert len(vague) <= MOST_VAGUE_NAMES, vague


def mixed(module: SourceModule, *, parameters: bool) -> Mapping[str, object]:
    """Names of more than one type, one of which is built in: a name of two classes may be one of a protocol's."""
    kinds = measures.types_by_name(module, parameters=parameters)
    return {name: lines for name, lines in kinds.items() if len(lines) > 1 and lines.keys() & _FAMILIES}


def test_an_annotated_variable_has_one_type_in_a_module() -> None:
    two = {
        (module.name, name): dict(lines)
        for module in SOURCES
        for name, lines in measures.types_by_name(module, parameters=False).items()
        if len(lines) > 1
    }
    assert not two


def test_a_parameter_has_one_type_in_a_module() -> None:
    two = {(module.name, name) for module in SOURCES for name in mixed(module, parameters=True)}
    assert two == TWO_TYPES


@pytest.mark.parametrize(("term", "module"), SEARCHED.items())
def test_a_search_for_a_term_leads_to_what_does_it(term: str, module: str) -> None:
    """As `git grep -il` finds it: in a docstring, a comment or a name."""
    text = (PACKAGE / module).read_text(encoding="utf-8").lower()
    assert any(spelled in text for spelled in (term.lower(), term.lower().replace(" ", "_")))


def test_measures_see_what_they_should() -> None:
    module = source(
        "x.py",
        "class A(Protocol):\n"
        "    found: int\n"
        "    def told(self, asked: str | None) -> None: ...\n"
        "\n"
        "def f(asked: Sequence[str], *said: str) -> int:\n"
        "    '''Does it.'''\n"
        "    try:\n"
        "        x: int = 1\n"
        "    except:\n"
        "        x: float = self.found\n"
        "    except (ValueError, Exception):\n"
        "        x: list[int] = []\n"
        "    return 0  # TO" + "DO\n",
    )
    assert [place.split()[1] for place in measures.vague_names(module)].count("found") == 2
    assert {place.split()[1] for place in measures.vague_names(module)} == measures.VAGUE
    assert sorted(kind for _, kind in measures.broad_excepts(module)) == ["Exception", "bare"]
    assert list(measures.protocols(module)) == [("x.py:A", 2)]
    assert [function.lines for function in measures.function_lengths(module)] == [8, 1]
    assert list(measures.public_docstrings(module)) == [False, False, True, False]
    assert measures.types_by_name(module, parameters=False)["x"].keys() == {"number", "collection"}
    assert measures.types_by_name(module, parameters=True)["asked"].keys() == {"text", "collection"}
    assert ("left for later", "0", "1") in measures.table([module])


#: Words of nobody's search: a message names who must do what.
UNCLEAR = re.compile(r"\b(whoever|somebody|nobody|anew|mend)\b", re.IGNORECASE)


def messages(module: SourceModule) -> Iterator[tuple[int, str]]:
    """Texts of a module with their lines: no docstrings but those of errors and of the command line's functions."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(module.tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value
        if isinstance(node, ast.ClassDef) and module.name == "wire/errors.py":
            yield node.lineno, ast.get_docstring(node) or ""
        if isinstance(node, ast.FunctionDef) and "CommandCall" in ast.unparse(node.args):
            yield node.lineno, ast.get_docstring(node) or ""


def test_messages_name_who_must_do_what() -> None:
    unclear = [
        f"{module.name}:{line} {text}" for module in SOURCES for line, text in messages(module) if UNCLEAR.search(text)
    ]
    assert not unclear
