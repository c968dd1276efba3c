"""What a second run of the fusion pipeline does: exactly the cells that are missing, with the real tools."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.fusion.conftest import Cohort
from tests.fusion.prompt import STEPS, Bucket, Cell, cells

pytestmark = [pytest.mark.engine, pytest.mark.tools, pytest.mark.xdist_group("fusion")]

ALL = cells("ann bob")
KNOWN = {"ann": "sim01", "bob": "sim03", "cid": "sim04"}


@pytest.fixture(scope="module")
def store(new_bucket: Callable[[str], Bucket], cohort: Cohort) -> Bucket:
    bucket = new_bucket("reruns")
    for name, simulated in KNOWN.items():
        cohort.write(bucket.bam(name), simulated)
    return bucket


@pytest.fixture
def done(store: Bucket) -> Bucket:
    """The store with ann and bob done by the pipeline as it is, whatever a test before has changed."""
    store.choose("ann", "bob")
    store.run()
    return store


def done_since(bucket: Bucket, runs_before: list[str]) -> tuple[set[Cell], set[Cell]]:
    """Cells that the one run since made, and those that it kept, by their receipts; no others were submitted."""
    [run_id] = (run for run in bucket.runs() if run not in runs_before)
    receipts = bucket.receipts()
    done = {cell for cell, receipt in receipts.items() if receipt.written_by[0] == run_id}
    made = {cell for cell in done if receipts[cell].run_id == run_id}
    jobs = bucket.jobs(run_id)
    assert {(job.rsplit("-", 2)[0], sample) for job, samples in jobs.items() for sample in samples} == done
    assert len(jobs) == len({step for step, _ in done})
    return made, done - made


def ran_since(bucket: Bucket, runs_before: list[str]) -> set[Cell]:
    """Cells that the one run since made. It kept none."""
    made, kept = done_since(bucket, runs_before)
    assert not kept
    return made


def test_each_step_is_one_job_and_the_fusions_are_those_that_were_put_in(done: Bucket, cohort: Cohort) -> None:
    assert done.receipts().keys() >= ALL
    for name in ("ann", "bob"):
        genes = json.loads(done.result("pizzly", name, f"{name}.json").read_text())["genes"]
        assert {(gene["geneA"]["id"], gene["geneB"]["id"]) for gene in genes} == cohort.fusions[KNOWN[name]]
    assert cohort.fusions["sim03"]
    first = done.jobs(next(run for run in done.runs() if len(done.jobs(run)) == len(STEPS)))
    assert set(first) == {f"{step}-0-0" for step in STEPS}


def test_run_again_submits_nothing_and_plans_in_at_most_twelve_store_calls(done: Bucket) -> None:
    before = done.runs()

    said = done.run("--verbose")

    assert said.out == "Nothing to do: 8 of 8 cells are done.\n"
    assert said.store_calls <= 12
    assert done.runs() == before


@pytest.mark.parametrize("step", STEPS)
def test_a_deleted_receipt_runs_that_cell_and_what_depends_on_it_is_kept(done: Bucket, step: str) -> None:
    """The tools make the same bytes of the same input: what is below is looked at, and stays."""
    before = done.runs()
    done.receipt_file(step, "bob").unlink()

    done.run()

    below = {cell for cell in cells("bob") if STEPS.index(cell[0]) > STEPS.index(step)}
    assert done_since(done, before) == ({(step, "bob")}, below)


def test_other_bootstraps_leave_picard_as_it_is(done: Bucket) -> None:
    before = done.runs()

    assert "parameter bootstraps: 30 -> 7" in done.give("status", "--bootstraps", "7", "--explain", "bob").out
    done.run("--bootstraps", "7")

    assert ran_since(done, before) == cells("ann bob", "kallisto", "pizzly")


def edited(text: str) -> str:
    """The module of a step with one attribute more."""
    return text.replace('    tools = ("pizzly",)\n', '    tools = ("pizzly",)\n    thought = 1\n')


def test_an_edited_step_runs_alone(done: Bucket) -> None:
    before = done.runs()

    with done.prompt.edited("steps/pizzly.py", edited):
        assert "the step's code: steps.pizzly.Pizzly" in done.give("status", "--explain", "ann").out
        done.run()

    assert ran_since(done, before) == cells("ann bob", "pizzly")


def test_a_comment_runs_nothing(done: Bucket) -> None:
    before = done.runs()

    with done.prompt.edited("steps/fastq.py", lambda text: text + "\n# A thought of somebody.\n"):
        assert "Nothing to do" in done.run().out

    assert done.runs() == before


def test_an_edited_step_is_left_alone_when_its_results_are_trusted(done: Bucket) -> None:
    before = done.runs()

    with done.prompt.edited("steps/pizzly.py", edited):
        assert "Nothing to do" in done.run("--accept-code-changes").out

    assert done.runs() == before


def test_a_replaced_bam_runs_its_sample_alone_with_all_steps(done: Bucket, cohort: Cohort) -> None:
    before = done.runs()
    bam = done.bam("ann")
    content = bam.read_bytes()
    cohort.write(bam, "sim02")
    assert bam.read_bytes() != content

    done.run()

    assert ran_since(done, before) == cells("ann")


def test_samples_added_to_the_list_are_all_that_runs(done: Bucket) -> None:
    before = done.runs()
    for step in STEPS:
        for path in (done.folder / "receipts" / step / "cid").glob("*.json"):
            path.unlink()
    done.choose("ann", "bob", "cid")

    done.run()

    assert ran_since(done, before) == cells("cid")
