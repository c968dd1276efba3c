"""What is made again and does not succeed is not done, nor is anything that reads it; on the real engine.

Each run of the first step leaves other bytes, so that a result that was made of older ones is seen.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.flow.lab import ALL, SAMPLES, Lab

pytestmark = pytest.mark.engine


@pytest.fixture
def again(lab: Lab) -> Lab:
    """A pipeline that is done; a file `flag.{step}` makes a step fail for ann."""
    lab.edit(
        "parts/lower.sh",
        "tr '[:upper:]' '[:lower:]' <",
        f'[ "$SAMPLE" != ann ] || [ ! -e {lab.folder}/flag.lower ] || exit 4\ncat /proc/sys/kernel/random/uuid - <',
    )
    lab.edit(
        "parts/words.py",
        "        words = sorted(",
        f"        if job.sample == 'ann' and __import__('os').path.exists('{lab.folder}/flag.words'):\n"
        "            raise InvalidOutput('The flag is up.')\n        words = sorted(",
    )
    lab.run()
    return lab


def flag(lab: Lab, step: str) -> Path:
    return lab.folder / f"flag.{step}"


def done(lab: Lab) -> set[tuple[str, str]]:
    """The cells that `plan` takes for done."""
    plan = lab.json("plan")
    waiting = {(job["step"], sample) for job in plan["jobs"] for sample in job["samples"]}
    return ALL - waiting


def check_whole(lab: Lab) -> None:
    """Every result was made of what is there now, and every receipt says so."""
    receipts = lab.receipts()
    assert set(receipts) == ALL
    for sample in SAMPLES:
        lower = (lab.store / f"results/lower/{sample}/{sample}.lower.txt").read_text()
        words = (lab.store / f"results/words/{sample}/{sample}.words.txt").read_text()
        assert words.split() == sorted(lower.split())
    made = {file["key"]: file["sha256"] for receipt in receipts.values() for file in receipt["outputs"]}
    for receipt in receipts.values():
        for file in receipt["inputs"]:
            assert made.get(file["key"], file["sha256"]) == file["sha256"]
    assert not list((lab.store / "retired").glob("*"))


def removed_receipt(lab: Lab) -> tuple[str, ...]:
    lab.receipt_of("lower", "ann").unlink()
    return ()


def forced(lab: Lab) -> tuple[str, ...]:
    return ("--force",)


def removed_result(lab: Lab) -> tuple[str, ...]:
    (lab.store / "results/words/ann/ann.words.txt").unlink()
    return ("--check-results",)


def cut_off_receipt(lab: Lab) -> tuple[str, ...]:
    lab.receipt_of("lower", "ann").write_bytes(b"")
    return ()


def forced_step(lab: Lab) -> tuple[str, ...]:
    return ("--from-step", "lower", "--force")


WAYS = [removed_receipt, forced, removed_result, cut_off_receipt, forced_step]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_reads_a_cell_that_is_made_again_and_fails_is_not_done(way: object, again: Lab) -> None:
    assert callable(way)
    flag(again, "words").touch()

    ran = again.run(*way(again), code=1)

    assert "words, invalid output: ann" in ran.out
    assert ("words", "ann") not in done(again)
    assert ("count", "_cohort") not in done(again)
    assert again.json("status", code=1)["steps"][2]["done"] == 0
    assert "Nothing to do" not in again.run(code=1).out
    flag(again, "words").unlink()
    again.run()
    assert again.sent() == {("words", "ann"), ("count", "_cohort")}
    check_whole(again)
    assert "Nothing to do: 7 of 7" in again.run().out


def test_a_forced_cell_that_fails_itself_is_not_done_nor_what_reads_it(again: Lab) -> None:
    flag(again, "lower").touch()

    ran = again.run("--samples", "ann", "--force", code=1)

    assert "words: 1 not run: 1 because lower failed" in ran.out
    assert done(again) == ALL - {("lower", "ann"), ("words", "ann"), ("count", "_cohort")}
    run_id = again.runs()[-1]
    for part in again.json("status", "--explain", "ann"):
        assert f"not done since run {run_id} set out to make it, or what it reads, again" in part["sentence"]
    flag(again, "lower").unlink()
    again.run()
    check_whole(again)


def test_status_says_since_when_what_was_done_is_not(again: Lab) -> None:
    flag(again, "lower").touch()
    again.run("--samples", "ann", "--force", code=1)

    sentence = f"3 cells are not done since run {again.runs()[-1]} set out to make them, or what is read there, again."
    assert sentence in again.run("status", code=1).err
    # So it is for who has the store alone.
    assert sentence in again.run("status", "--run", again.runs()[0], code=1).err


def test_what_is_not_chosen_and_reads_what_is_made_again_is_not_done(again: Lab) -> None:
    again.run("--only-step", "lower", "--samples", "bob", "--force")

    assert done(again) == ALL - {("words", "bob"), ("count", "_cohort")}
    again.run()
    check_whole(again)


def test_the_plan_says_what_will_not_be_done_any_more(again: Lab) -> None:
    told = again.run("plan", "--only-step", "lower", "--samples", "bob", "--force").out

    assert "2 cells that were not chosen are not done after this" in told
    assert "made again: 1 of words, 1 of count." in told


def test_a_tolerant_gather_does_without_a_sample_that_was_made_again_and_failed(again: Lab) -> None:
    flag(again, "words").touch()

    ran = again.run("--force", "--min-success", "0.5", code=1)

    assert "count: 1/1 done" in ran.out
    table = (again.store / "cohort/count/words.tsv").read_text()
    assert "ann\tmissing" in table


def test_what_reads_equal_bytes_is_kept(lab: Lab) -> None:
    """The shell step leaves the same bytes each time; the step below is a job that runs nothing."""
    lab.run()
    before = lab.receipts()
    lab.receipt_of("lower", "ann").unlink()

    lab.run()

    after = lab.receipts()
    run_id = lab.runs()[-1]
    assert after["lower", "ann"]["run_id"] == run_id
    for cell in (("words", "ann"), ("count", "_cohort")):
        assert after[cell]["run_id"] == before[cell]["run_id"]
        assert after[cell]["kept"]["run_id"] == run_id
    assert after["words", "bob"] == before["words", "bob"]
    assert "Nothing to do" in lab.run().out


def test_a_forced_cell_whose_first_attempt_is_interrupted_is_made_by_the_next_one(lab: Lab) -> None:
    """As a Spot machine is taken back. The receipt of the run before is no reason to do nothing."""
    flag = lab.folder / "flag"
    lab.edit("parts/lower.sh", "turns=0", f"[ ! -e {flag} ] || {{ rm {flag}; kill -TERM $PPID; sleep 30; }}\nturns=0")
    lab.samples("ann")
    lab.run()
    flag.touch()

    lab.run("--force")

    receipt = lab.receipts()["lower", "ann"]
    assert (receipt["run_id"], receipt["attempt"]) == (lab.runs()[-1], 2)
    assert not flag.exists()


def test_what_was_detached_is_told_by_status_until_it_is_made(again: Lab) -> None:
    flag(again, "words").touch()
    again.run("--force", "--detach")
    again.run("status", "--watch", code=None)

    status = again.json("status", code=1)

    assert {(cell["step"], cell["sample"]) for cell in status["failed"]} == {("words", "ann")}
    assert [step["done"] for step in status["steps"]] == [3, 2, 0]
    flag(again, "words").unlink()
    again.run()
    check_whole(again)


def test_a_store_without_retired_receipts_is_read_in_one_listing_more(lab: Lab) -> None:
    """What earlier versions wrote stays done."""
    lab.run()
    for path in (lab.store / "receipts").glob("*/*/*.json"):
        receipt = json.loads(path.read_text())
        for name in ("kept", "metrics_read"):
            del receipt[name]
        path.write_text(json.dumps(receipt))
    ran = lab.run("--verbose")
    assert "Nothing to do: 7 of 7" in ran.out
    assert ran.store_calls <= 12


# References.


@pytest.fixture
def indexed(lab: Lab) -> Lab:
    """A pipeline that is done with a reference that is built."""
    lab.file = "indexed.py"
    (lab.folder / "list").mkdir()
    (lab.folder / "list" / "words.txt").write_text("of\nwords\n")
    build(lab)
    lab.run()
    return lab


def build(lab: Lab, *words: str, code: int = 0) -> None:
    lab.run("reference", "en", "--words", str(lab.folder / "list" / "words.txt"), *words, code=code)


def test_a_reference_that_is_built_again_and_fails_is_absent_until_it_is_built(indexed: Lab) -> None:
    broken = indexed.folder / "list" / "broken"
    broken.touch()

    build(indexed, "--force", code=1)

    ran = indexed.run(code=2)
    assert "The reference 'en' is not there since run" in ran.err
    assert indexed.run("plan", code=2).err == ran.err
    broken.unlink()
    build(indexed)
    assert "Nothing to do: 3 of 3" in indexed.run().out, "the same bytes are the same reference"
    assert not list((indexed.store / "retired").glob("*"))


def test_a_reference_of_other_files_that_fails_may_be_built_of_the_old_ones_again(indexed: Lab) -> None:
    words = indexed.folder / "list" / "words.txt"
    broken = indexed.folder / "list" / "broken"
    kept = words.stat()
    words.rename(words.with_name("kept.txt"))
    words.write_text("other\n")
    broken.touch()
    build(indexed, "--force", code=1)
    broken.unlink()
    words.with_name("kept.txt").rename(words)
    assert words.stat().st_ino == kept.st_ino

    build(indexed)

    receipt = json.loads(indexed.receipt_of("reference", "en").read_text())
    assert receipt["kept"]
    assert "Nothing to do: 3 of 3" in indexed.run().out


def test_what_the_builder_of_a_reference_warns_of_is_printed(indexed: Lab) -> None:
    words = str(indexed.folder / "list" / "words.txt")
    command = ("reference", "en", "--words", words)
    assert "Warning" not in indexed.run(*command).err
    (indexed.folder / "list" / "words.txt").write_text("of\nof\nwords\n")
    assert "Warning: A word stands in the list twice." in indexed.run(*command, "--force").err
    assert "Warning: A word stands in the list twice." in indexed.run(*command).err


def test_a_reference_that_changed_is_another_one(indexed: Lab) -> None:
    (indexed.folder / "list" / "words.txt").write_text("ann\nwords\n")

    build(indexed, "--force")

    indexed.run()
    assert (indexed.store / "results/lookup/ann/ann.known.txt").read_text() == "words\nann\n"


def test_what_read_bytes_of_a_disk_that_rots_runs_again_once_that_is_found(lab: Lab) -> None:
    """The file keeps its size and time: only `verify` reads it, and its reader's receipt names what it should be."""
    lab.run("--only-step", "lower")
    path = lab.store / "results/lower/ann/ann.lower.txt"
    right, times = path.read_bytes(), path.stat()
    path.write_bytes(right.replace(b"words", b"wards"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    lab.run()
    assert "wards" in (lab.store / "results/words/ann/ann.words.txt").read_text()

    assert "2 cells will be made again" in lab.run("verify", "--all", "--repair", code=1).out
    lab.run()

    assert path.read_bytes() == right
    assert "wards" not in (lab.store / "results/words/ann/ann.words.txt").read_text()
    assert not lab.run("verify", "--all").err
    assert "Nothing to do" in lab.run().out


def test_a_reference_is_built_with_what_the_settings_say_of_its_step(indexed: Lab) -> None:
    build(indexed, "--force", "--set", "steps.reference.memory_mb=333")

    assert json.loads(indexed.receipt_of("reference", "en").read_text())["memory_mb"] == 333
    assert "Nothing to do: 3 of 3" in indexed.run("plan", "--set", "steps.reference.memory_mb=444").out
