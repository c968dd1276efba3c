"""Each term of the glossary leads to code: a name, or the first line of a docstring, of the module that it names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.repository

ROOT = Path(__file__).resolve().parent.parent
_ROW = re.compile(r"\| ([^|]+) \| ([^|]+) \| `([^`]+)` \|")
ROWS = [
    found.groups() for found in map(_ROW.fullmatch, (ROOT / "docs" / "glossary.md").read_text().splitlines()) if found
]
#: What a newcomer would search for.
SEARCHED = (
    *("heartbeat", "rate limit", "exponential backoff", "snapshot", "topological order", "DAG", "lease"),
    *("fencing number", "optimistic write", "idempotent", "deduplicate"),
)


def words(module: Path) -> str:
    """Names, with spaces between their words, and first lines of docstrings; a line each."""
    found = []
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            found.append((ast.get_docstring(node) or "").partition("\n")[0])
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            found.append(re.sub(r"_|(?<=[a-z])(?=[A-Z])", " ", node.name))
    return "\n".join(found).lower()


@pytest.mark.parametrize(("term", "module"), [(term, module) for term, _, module in ROWS])
def test_a_term_stands_where_the_glossary_says(term: str, module: str) -> None:
    assert re.search(rf"\b{re.escape(term.lower())}", words(ROOT / "batch_pipeline" / module))


def test_terms_are_in_order_and_there_is_what_people_search_for() -> None:
    terms = [term for term, _, _ in ROWS]
    assert terms == sorted(terms, key=str.lower)
    assert len(terms) >= 60
    assert set(SEARCHED) <= set(terms)
