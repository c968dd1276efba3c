"""A changed line runs again the cells of the steps that may use it, and what reads them; on the real engine."""

from __future__ import annotations

import pytest

from tests.flow.lab import ALL, SAMPLES, Lab
from tests.pipeline.worlds import former_parts

pytestmark = pytest.mark.engine

NONE: set[tuple[str, str]] = set()
COUNT = {("count", "_cohort")}
WORDS = {*COUNT, *(("words", sample) for sample in SAMPLES)}


@pytest.fixture
def single(lab: Lab) -> Lab:
    """A pipeline in one file with a helper in another."""
    lab.file = "single.py"
    return lab


@pytest.fixture
def done(single: Lab) -> Lab:
    single.run()
    return single


@pytest.mark.parametrize(
    ("file", "old", "new", "cells", "names"),
    [
        ("single.py", "ENDING =", "# Of a line.\nENDING =", NONE, ""),
        ("single.py", "Lists the words of a text.", "Lists its words.", NONE, ""),
        ("single.py", "memory_mb = 64", "memory_mb = 65", NONE, ""),
        ("single.py", "import Counter\n", "import Counter, deque\n", NONE, ""),
        ("parts/text.py", "return text\n", "return text.strip()\n", NONE, ""),
        ("single.py", "files[0].read_text()", "files[0].read_text().upper()", COUNT, "single.Count.run"),
        ("single.py", "ENDING = ", "ENDING = '' + ", WORDS, "single.ENDING"),
        ("single.py", ".lower())", ".lower() + '')", ALL, "single.Lower.run"),
        ("parts/text.py", "TAB = ", "TAB = ' ' + ", COUNT, "parts.text.TAB"),
        ("parts/text.py", "sorted(text", "list(text", WORDS, "parts.text.split"),
        ("parts/text.py", "TAB = ", "print()\nTAB = ", ALL, "parts/text.py"),
    ],
)
def test_exactly_what_depends_on_a_change_runs_again(
    file: str, old: str, new: str, cells: set[tuple[str, str]], names: str, done: Lab
) -> None:
    runs = done.runs()
    done.edit(file, old, new)

    explained = done.json("status", "--explain", "ann", code=None)
    ran = done.run()

    assert names in str(explained)
    assert (done.sent() if done.runs() != runs else NONE) == cells
    assert ("Nothing to do" in ran.out) is (cells == NONE)
    assert set(done.receipts()) == ALL
    assert "Nothing to do: 7 of 7" in done.run().out


def test_what_an_earlier_version_made_counts_until_its_bytes_change(
    single: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr("batch_pipeline.run.snapshot.step_parts", former_parts)
        single.run()

    assert "Nothing to do: 7 of 7" in single.run().out
    single.receipt_of("words", "bob").unlink()
    single.run()
    assert single.sent() == {("words", "bob"), *COUNT}
    assert "Nothing to do: 7 of 7" in single.run().out
    single.samples(*SAMPLES, "dan")
    single.run()
    assert single.sent() == {("lower", "dan"), ("words", "dan"), *COUNT}
    assert "Nothing to do: 9 of 9" in single.run().out

    single.edit("single.py", "ENDING =", "# Of a line.\nENDING =")

    single.run()
    sent = single.sent()
    assert {("lower", sample) for sample in SAMPLES} <= sent
    assert ("lower", "dan") not in sent
    single.edit("single.py", "# Of a line.", "# That ends a line.")
    assert "Nothing to do: 9 of 9" in single.run().out
