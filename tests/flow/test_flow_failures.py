"""A failing sample, and hostile inputs: one clear sentence, a non-zero exit, and the others finish."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.flow.lab import Lab

pytestmark = pytest.mark.engine

OTHERS = {(step, sample) for step in ("lower", "words") for sample in ("ann", "cid")}


def test_a_failing_sample_leaves_the_others_alone_and_is_told_with_its_consequences(lab: Lab) -> None:
    lab.text("bob", "FAIL\n")

    ran = lab.run(code=1)

    assert set(lab.receipts()) == OTHERS
    assert "the text of bob cannot be read" in ran.out
    assert "lower, step failed: bob" in ran.out
    assert "words: 1 not run: 1 because lower failed (1 step failed)" in ran.out
    assert "count: 1 not run: 1 because lower failed" in ran.out


def test_status_says_afterwards_what_failed(lab: Lab) -> None:
    lab.text("bob", "FAIL\n")
    lab.run(code=1)

    told = lab.json("status", code=1)

    assert [(cell["step"], cell["sample"], cell["reason"]) for cell in told["failed"]] == [
        ("lower", "bob", "step_failed")
    ]
    (lower,) = (step for step in told["steps"] if step["step"] == "lower")
    assert (lower["done"], lower["total"]) == (2, 3)
    assert told["live_runs"] == []


def test_status_knows_a_cell_whose_container_could_say_nothing(lab: Lab) -> None:
    """A container that is killed leaves no record of its failure; the driver that judged it does."""
    lab.text("bob", "SILENCED\n")
    ran = lab.run(code=1)
    assert "lower, out of memory: bob" in ran.out

    told = lab.json("status", code=1)

    assert [(cell["step"], cell["sample"], cell["reason"]) for cell in told["failed"]] == [
        ("lower", "bob", "out_of_memory")
    ]


def test_a_cell_that_takes_more_memory_than_it_has_goes_again_with_more_until_it_is_enough(lab: Lab) -> None:
    lab.text("bob", "HUNGRY\n")

    ran = lab.run()

    assert "lower: 1 cell sent again with 128 MiB (out of memory)" in ran.out
    assert "lower: 1 cell sent again with 256 MiB (out of memory)" in ran.out
    assert ran.calls["SubmitJob"] == 9, "each time one job a step for what is left"
    assert len(lab.receipts()) == 7
    assert len(lab.runs()) == 3


def test_a_tool_that_somebody_kills_is_not_taken_for_one_without_memory(lab: Lab) -> None:
    lab.text("bob", "KILLED\n")

    ran = lab.run(code=1)

    assert "lower, step failed: bob" in ran.out
    assert "lower.sh was killed (signal 9). Not for lack of memory (its peak was " in ran.out
    assert "sent again" not in ran.out
    assert ran.calls["SubmitJob"] == 3
    assert len(lab.runs()) == 1
    assert len(lab.receipts()) == 4


def test_a_failure_is_tried_again_by_the_next_command_and_not_before(lab: Lab) -> None:
    lab.text("bob", "FAIL\n")
    lab.run(code=1)
    lab.run(code=1)

    assert lab.sent() == {("lower", "bob"), ("words", "bob"), ("count", "_cohort")}
    assert len(lab.runs()) == 2


def test_failed_chooses_the_samples_that_failed(lab: Lab) -> None:
    lab.text("bob", "FAIL\n")
    lab.run(code=1)
    lab.samples("ann", "bob", "cid", "new")
    lab.text("bob", "Mended words\n")

    lab.run("--failed")

    assert lab.sent() == {("lower", "bob"), ("words", "bob")}
    assert "no sample has failed" in lab.run("--failed").out


def test_the_log_of_a_failed_cell_is_there(lab: Lab) -> None:
    lab.text("bob", "FAIL\n")
    lab.run(code=1)

    assert "the text of bob cannot be read" in lab.run("logs", "bob", "lower").out
    assert lab.run("logs", "bob", "lower", "--grep", "^the").out.splitlines() == ["the text of bob cannot be read"]


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """One thing that is wrong with a sample, a list or a pipeline, and what is said of it."""

    name: str
    harm: Callable[[Lab], object]
    #: All of these stand in what is printed.
    told: tuple[str, ...]
    code: int
    #: Whether samples ann and cid finish.
    others_finish: bool = False
    words: tuple[str, ...] = ()


def _remove(lab: Lab) -> None:
    (lab.sources / "bob.txt").unlink()


def _folder(lab: Lab) -> None:
    _remove(lab)
    (lab.sources / "bob.txt").mkdir()


def _list(text: str | bytes) -> Callable[[Lab], object]:
    data = text.encode() if isinstance(text, str) else text
    return lambda lab: lab.sample_list.write_bytes(data)


def _no_output(lab: Lab) -> None:
    lab.edit("parts/lower.sh", "tr '[", 'if [ "$SAMPLE" = bob ]; then exit 0; fi\ntr \'[')


def _no_bit(lab: Lab) -> None:
    script = lab.pipeline / "parts/lower.sh"
    script.chmod(stat.S_IRUSR | stat.S_IWUSR)


def _file_in_the_way(lab: Lab) -> None:
    lab.store.write_text("not a folder")


def _cycle(lab: Lab) -> None:
    lab.edit("parts/lower.py", "    text = Input()\n", "    text = Input()\n    back = Input()\n")
    lab.edit("chain.py", "        count.in_words", "        lower.in_back = words.out_words\n        count.in_words")


TABLE = (
    Hostile(
        name="a missing source",
        harm=_remove,
        told=("Its source", "bob.txt is not there; check the list and --sources."),
        code=1,
        others_finish=True,
    ),
    Hostile(name="a folder for a source", harm=_folder, told=("bob.txt", "is not there"), code=1, others_finish=True),
    Hostile(
        name="a zero-byte source",
        harm=lambda lab: lab.text("bob", ""),
        told=("truncated", "bob", "Copy it again."),
        code=1,
        others_finish=True,
    ),
    Hostile(
        name="a truncated source",
        harm=lambda lab: lab.text("bob", "The words of b"),
        told=("The text of sample bob is truncated", "Copy it again."),
        code=1,
        others_finish=True,
    ),
    Hostile(
        name="a source without content",
        harm=lambda lab: lab.text("bob", "\n"),
        told=("Sample bob has no word of 1 letters; look at its text.",),
        code=1,
        others_finish=True,
    ),
    Hostile(
        name="a step that leaves no output",
        harm=_no_output,
        told=("bob.lower.txt", "lower"),
        code=1,
        others_finish=True,
    ),
    Hostile(
        name="a tool killed by somebody",
        harm=lambda lab: lab.text("bob", "KILLED\n"),
        told=("step failed: bob", "look for a kill or a time limit"),
        code=1,
        others_finish=True,
    ),
    Hostile(name="a name with a space", harm=_list("ann\nb ob\n"), told=("line 2", "'b ob'"), code=2),
    Hostile(name="a name with a comma", harm=_list("ann\nb,ob\n"), told=("line 2",), code=2),
    Hostile(name="a name with a slash", harm=_list("ann\nb/ob\n"), told=("line 2", "slash"), code=2),
    Hostile(name="a name that climbs", harm=_list("../ann\n"), told=("line 1",), code=2),
    Hostile(name="a name in unicode", harm=_list("ann\nbøb\n"), told=("line 2", "bøb"), code=2),
    Hostile(name="a name with a control character", harm=_list("ann\nb\x07ob\n"), told=("line 2",), code=2),
    Hostile(name="a name of 129 characters", harm=_list(f"ann\n{'b' * 129}\n"), told=("line 2", "128"), code=2),
    Hostile(name="a name twice", harm=_list("ann\nbob\nann\n"), told=("line 3", "line 1"), code=2),
    Hostile(name="an empty list", harm=_list("\n# nobody\n"), told=("no sample",), code=2),
    Hostile(name="a list that is no text", harm=_list(b"ann\n\xff\xfe\n"), told=("UTF-8",), code=2),
    Hostile(name="no list", harm=lambda lab: lab.sample_list.unlink(), told=("samples.txt",), code=2),
    Hostile(name="an unknown step", harm=_list("ann\n"), words=("--from-step", "word"), told=("'words'?",), code=2),
    Hostile(name="an unknown sample", harm=_list("ann\n"), words=("--samples", "an"), told=("'ann'?",), code=2),
    Hostile(
        name="a parameter that is no number", harm=_list("ann\n"), words=("--shortest", "x"), told=("'x'",), code=2
    ),
    Hostile(name="a parameter out of range", harm=_list("ann\n"), words=("--shortest", "0"), told=("0",), code=2),
    Hostile(name="a cyclic pipeline", harm=_cycle, told=("cycle", "lower -> words -> lower"), code=2),
    Hostile(
        name="an unconnected input",
        harm=lambda lab: lab.edit("chain.py", "        words.in_text = lower.out_lowered\n", ""),
        told=("in_text of task words is not connected",),
        code=2,
    ),
    Hostile(
        name="a script that is not there",
        harm=lambda lab: (lab.pipeline / "parts/lower.sh").unlink(),
        told=("lower.sh", "Lower"),
        code=2,
    ),
    Hostile(
        name="a store that is a file",
        harm=_file_in_the_way,
        told=("The store", "cannot be made", "Choose another folder."),
        code=4,
    ),
    Hostile(
        name="a store below a file",
        harm=lambda lab: None,
        words=("--store", "/dev/null/at/all"),
        told=("The store /dev/null/at/all cannot be made: Not a directory. Choose another folder.",),
        code=4,
    ),
    Hostile(
        name="sources that are not there",
        harm=lambda lab: None,
        words=("--sources", "/nowhere/at/all"),
        told=("is not there; check the list and --sources.",),
        code=1,
    ),
    Hostile(
        name="a scheduler that is not there",
        harm=lambda lab: None,
        words=("--scheduler-host", "127.0.0.1", "--scheduler-port", "9"),
        told=("No Luigi scheduler at", "nothing was submitted"),
        code=4,
    ),
)


@pytest.mark.parametrize("hostile", TABLE, ids=lambda hostile: hostile.name.replace(" ", "-"))
def test_hostile_input_is_told_in_a_sentence_with_its_remedy(lab: Lab, hostile: Hostile) -> None:
    hostile.harm(lab)

    ran = lab.run(*hostile.words, code=hostile.code)

    said = " ".join((ran.out + ran.err).split())
    for words in hostile.told:
        assert words in said
    assert "Traceback" not in said
    assert "This is a defect" not in said
    if hostile.others_finish:
        assert set(lab.receipts()) >= OTHERS
        assert ("count", "_cohort") not in lab.receipts()
    else:
        assert not Path(lab.store / "receipts").exists()


def test_a_script_without_its_executable_bit_runs_or_is_told(lab: Lab) -> None:
    _no_bit(lab)

    ran = lab.run(code=None)

    assert ran.code == 0 or "lower.sh" in ran.out + ran.err


def test_all_problems_of_a_list_are_told_at_once(lab: Lab) -> None:
    lab.sample_list.write_text("ann\nb ob\nc/id\nann\n")

    ran = lab.run(code=2)

    assert all(f"line {number}" in ran.err for number in (2, 3, 4))


def test_a_second_pipeline_with_the_same_steps_is_told_so_by_plan_and_run(lab: Lab) -> None:
    lab.run()
    before = lab.receipts()
    (lab.pipeline / lab.file).rename(lab.pipeline / "copied.py")
    lab.file = "copied.py"
    sentence = "has the steps 'lower', 'words', 'count', and so has chain."

    assert sentence in lab.run("plan", "--force", code=1).err
    assert sentence in lab.run("--force", code=2).err
    assert lab.receipts() == before
    assert "Nothing to do" in lab.run().out
    lab.run("--force", "--share-steps")
    assert sentence not in lab.run("plan", "--force").err
