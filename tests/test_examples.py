"""Property tests depend on nothing but the code: neither on chance nor on the clock nor on earlier runs."""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples

by_default = pytest.mark.skipif("HYPOTHESIS_EXAMPLES" in os.environ, reason="other examples are asked for")


@by_default
def test_the_profile_of_the_tests_is_in_force() -> None:
    for used in (settings(), examples(7)):
        assert (used.derandomize, used.database, used.deadline, used.print_blob) == (True, None, None, True)
    assert examples(7).max_examples == 7


def drawn() -> list[str]:
    texts: list[str] = []

    @examples(300)
    @given(text=st.text())
    def draw(text: str) -> None:
        texts.append(text)

    draw()
    return texts


@by_default
def test_the_same_examples_are_drawn_every_time_whatever_was_imported_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = drawn()
    (tmp_path / "many_words.py").write_text(f"WORDS = {[f'word {number}' for number in range(100)]}")
    monkeypatch.syspath_prepend(tmp_path)
    assert len(import_module("many_words").WORDS) == 100
    assert drawn() == before


def test_no_test_has_other_rules_of_its_own(root: Path) -> None:
    own_rule = re.compile(r"\b(deadline|derandomize|database)=")
    ours = {root / "tests/examples.py", Path(__file__)}
    files = (path for path in (root / "tests").rglob("*.py") if "node_modules" not in path.parts and path not in ours)
    texts = {path.name: text for path in files if "hypothesis" in (text := path.read_text())}
    assert texts
    assert [name for name, text in texts.items() if own_rule.search(text)] == []
