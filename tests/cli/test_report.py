"""`report`: a page about a run that ended, is live, lost its driver or its records, or has no cells."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline import backends
from batch_pipeline.records.cell_table import CellTable, CellTableWriter
from batch_pipeline.records.events import NullListener
from batch_pipeline.records.history import Happened, append
from batch_pipeline.records.record import RunRecord
from batch_pipeline.run import interrupts, live
from batch_pipeline.run.status import watch
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.store import open_store
from tests.cli.letters import Run
from tests.run.small import Stage, drive, request_of

ALONE = {"workflow": None}
HOSTILE = "</script><script>window.pwned = 1</script><img src=x onerror=pwned>"


@pytest.fixture
def stage(world: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage(open_store(str(world / "store" / "default")))
    monkeypatch.setattr(backends, "create", lambda settings: made)
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.0)
    return made


class Elements(HTMLParser):
    """The tags and attributes of a page as a browser sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.scripts: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "script":
            self.scripts.append(dict(attrs).get("type"))


def meta_of(page: str) -> Any:
    block = re.search(r'<script type="application/json" id="meta">(.*?)</script>', page)
    assert block is not None
    return json.loads(block[1])


def test_a_page_says_what_ran_and_what_failed(stage: Stage, run: Run, world: Path) -> None:
    stage.play = lambda step, sample, attempt: 3 * ((step, sample) == ("upper", "bob"))
    (run_id,) = drive(request_of(stage.store, description="A <b>bad</b> day"), stage).run_ids

    told = run("report", **ALONE)

    page = (world / "report.html").read_text()
    assert told.code == CommandExit.DONE
    assert told.out == f"Wrote report.html ({len(page.encode()):,} bytes) about run {run_id}.\n"
    assert "A &lt;b&gt;bad&lt;/b&gt; day" in page
    assert "upper of bob broke." in page
    assert "Never ran for it: 1 of count, 1 of total." in page
    assert f"batch-pipeline logs bob upper --run {run_id}" in page
    assert "3 never done" in page, "why the cells ran"
    meta = meta_of(page)
    assert [(step["name"], step["gather"], step["cells"]) for step in meta["steps"]] == [
        ("upper", False, 3),
        ("count", False, 3),
        ("total", True, 1),
    ]
    (detail,) = meta["details"]
    assert (detail["step"], detail["sample"], detail["inputs"]) == ("upper", "bob", ["text: SR/bob.txt (11 bytes)"])


def test_json_names_the_file_and_the_run(stage: Stage, run: Run, world: Path) -> None:
    (run_id,) = drive(request_of(stage.store), stage).run_ids
    record = json.loads(run("report", run_id[-6:], "-o", "new/page.html", "--json", **ALONE).out)
    size = (world / "new/page.html").stat().st_size
    assert record == {"format": 1, "run_id": run_id, "file": "new/page.html", "bytes": size}


def test_nothing_but_its_own_script_and_style_may_be_used(stage: Stage, run: Run, world: Path) -> None:
    drive(request_of(stage.store, description=HOSTILE), stage)
    run("report", **ALONE)
    page = (world / "report.html").read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    shapes = [re.sub(r"sha256-[\w+/=]{44}", "sha256-X", part.strip()) for part in policy[1].split(";")]
    assert shapes == ["default-src 'none'", "script-src 'sha256-X'", "style-src 'sha256-X'", "img-src data:"]
    elements = Elements()
    elements.feed(page)
    assert elements.scripts == ["application/json", "text/plain", *["text/plain"] * 3, None]
    assert "img" not in elements.tags
    assert not elements.attributes & {"src", "href", "style", "onerror", "onclick"}
    code = page.split("<style>")[1].split("</style>")[0] + page.split("<script>")[1].split("</script>")[0]
    assert len(code.encode()) < 100_000


def test_a_live_run_is_shown_as_its_status_has_it(stage: Stage, run: Run, world: Path) -> None:
    stage.is_open = False
    drive(request_of(stage.store), stage, detach=True)
    told = run("report", **ALONE)
    page = (world / "report.html").read_text()
    assert told.code == CommandExit.DONE
    assert '<span class="badge live">live</span>' in page
    assert "7 sent" in page
    assert "As run" in told.err


def test_a_run_whose_driver_died_has_what_its_receipts_say(stage: Stage, run: Run, world: Path) -> None:
    stage.is_open = False
    stage.play = lambda step, sample, attempt: 3 * ((step, sample) == ("upper", "bob"))
    drive(request_of(stage.store), stage, detach=True)
    stage.drain(stage._act)
    run("report", **ALONE)
    page = (world / "report.html").read_text()
    assert '<span class="badge live">nothing live</span>' in page
    assert "upper of bob broke." in page
    assert "1 failed, 2 to run, 4 done" in page


def test_a_receipt_that_is_cut_in_half_is_told(stage: Stage, run: Run, world: Path) -> None:
    (run_id,) = drive(request_of(stage.store), stage).run_ids
    key = next(iter(stage.store.keys("receipts/count/ann/")))
    stage.store.put(key, stage.store.get(key)[:50])
    assert run("store", "index", run_id, **ALONE).code == CommandExit.DONE
    told = run("report", "--cells", "count/ann,upper/bob", **ALONE)
    assert "There is no time of 1 cell whose receipt is gone or cannot be read." in told.err
    details = meta_of((world / "report.html").read_text())["details"]
    assert [(detail["step"], bool(detail["problem"])) for detail in details] == [("count", True), ("upper", False)]
    assert details[1]["attempts"][0]["log_tail"] == "upper says bob\nand goes\n"


def test_a_damaged_table_or_plan_is_told_and_the_rest_is_shown(stage: Stage, run: Run, world: Path) -> None:
    (run_id,) = drive(request_of(stage.store), stage).run_ids
    stage.store.put(layout.run_cells(run_id), b"no table")
    told = run("report", **ALONE)
    assert (told.code, f"`store index {run_id}` writes it again." in told.err) == (CommandExit.DONE, True)
    assert "7 done" in (world / "report.html").read_text()
    stage.store.put(layout.plan(run_id), b'{"parts": ')
    told = run("report", **ALONE)
    assert (told.code, "cannot be read" in told.err) == (CommandExit.DONE, True)
    assert 'id="map"' not in (world / "report.html").read_text()


@pytest.mark.parametrize("damaged", [b"", b"null", b"[]", b"{}", b'{"cells": null}', b'{"cells": [{"step": 3}]}'])
def test_a_damaged_list_of_failures_or_event_is_told_and_the_rest_is_shown(
    stage: Stage, run: Run, world: Path, damaged: bytes
) -> None:
    stage.play = lambda step, sample, attempt: 3 * ((step, sample) == ("upper", "bob"))
    (run_id,) = drive(request_of(stage.store), stage).run_ids
    stage.store.put(layout.run_failed(run_id), damaged)
    stage.store.put(layout.event(run_id, "01JD0000000000000000000000"), damaged[:4])
    told = run("report", **ALONE)
    assert told.code == CommandExit.DONE
    assert "Messages of failed cells cannot be read:" in told.err
    assert ("Its events cannot be read:" in told.err) == (damaged[:4] != b"{}")
    page = (world / "report.html").read_text()
    assert "1 failed" in page
    assert 'id="map"' in page


@pytest.mark.parametrize("damaged", [b"null", b"[]", b"{}", b"3", b'{"run_id": "R", "started_at": "today"}'])
def test_a_damaged_record_of_a_run_is_named(stage: Stage, run: Run, damaged: bytes) -> None:
    (run_id,) = drive(request_of(stage.store), stage).run_ids
    stage.store.put(layout.run_record(run_id), damaged)
    told = run("report", **ALONE)
    assert told.code == CommandExit.UNREACHABLE
    assert f"runs/{run_id}/run.json and its end are no record of a run" in told.err


def test_a_run_that_went_on_with_failures_of_another_names_it(stage: Stage, run: Run, world: Path) -> None:
    """The newest run of a command that sent a cell again is done, and says nothing of the other failures."""
    first = "01JD0000000000000000000000"
    (run_id,) = drive(request_of(stage.store), stage).run_ids
    append(stage.store, run_id, Happened.RECOVERY, "upper: 1 cell sent again", of=[first])
    sentence = f"It sent again a part of what failed in run {first}; the other failures are there: `report {first}`."
    assert sentence in run("report", **ALONE).err
    assert f"<code>report {first}</code>" in (world / "report.html").read_text()


def test_a_lone_surrogate_in_a_record_is_written(stage: Stage, run: Run, world: Path) -> None:
    stage.play = lambda step, sample, attempt: 3 * ((step, sample) == ("upper", "bob"))
    (run_id,) = drive(request_of(stage.store), stage).run_ids
    failed = stage.store.get_json(layout.run_failed(run_id))
    failed["cells"][0]["message"] = "no file \udcff\u202e"
    stage.store.put(layout.run_failed(run_id), json.dumps(failed).encode())
    record = stage.store.get_json(layout.run_record(run_id))
    stage.store.put(layout.run_record(run_id), json.dumps({**record, "description": "a \udcff b"}).encode())
    assert run("report", **ALONE).code == CommandExit.DONE
    page = (world / "report.html").read_text()
    assert "no file \ufffd\ufffd" in page
    assert "a ? b" in page


def test_a_file_called_minus_is_refused(stage: Stage, run: Run, world: Path) -> None:
    drive(request_of(stage.store), stage)
    told = run("report", "-o", "-", **ALONE)
    assert (told.code, told.err) == (
        CommandExit.USAGE,
        "Error: -o needs the name of a file, and - is none. Name a file.\n",
    )
    assert not (world / "-").exists()


@pytest.mark.parametrize(("kind", "words"), [("driver", "runs a script"), ("pipeline", "has no plan in the store")])
def test_a_run_without_cells_has_a_page(stage: Stage, run: Run, world: Path, kind: str, words: str) -> None:
    record = RunRecord(run_id="01JD0000000000000000000000", started_at="2026-11-30T12:00:00.000Z", kind=kind)
    stage.store.put(layout.run_record(record.run_id), json.dumps(asdict(record)).encode())
    told = run("report", "last", **ALONE)
    assert (told.code, words in told.err) == (CommandExit.DONE, True)
    assert words in (world / "report.html").read_text()


def test_a_store_without_runs_has_none(stage: Stage, run: Run, world: Path) -> None:
    told = run("report", **ALONE)
    assert (told.code, told.out) == (CommandExit.USAGE, "")
    assert "No run is recorded" in told.err
    assert not (world / "report.html").exists()


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        ("uper/ann", "There is no step 'uper'. Did you mean 'upper'?"),
        ("upper/anna", "There is no sample 'anna'. Did you mean 'ann'?"),
        ("upper", "--cells 'upper' names no sample. Write STEP/SAMPLE."),
    ],
)
def test_cells_that_the_run_does_not_have_are_refused(
    stage: Stage, run: Run, world: Path, cells: str, sentence: str
) -> None:
    drive(request_of(stage.store), stage)
    told = run("report", "--cells", cells, **ALONE)
    assert (told.code, told.err) == (CommandExit.USAGE, f"Error: {sentence}\n")
    assert not (world / "report.html").exists()


def test_a_gather_is_chosen_by_its_step_alone(stage: Stage, run: Run, world: Path) -> None:
    drive(request_of(stage.store), stage)
    run("report", "--cells", "total", **ALONE)
    assert [detail["sample"] for detail in meta_of((world / "report.html").read_text())["details"]] == ["_cohort"]


def test_with_the_pipelines_file_commands_name_it(
    stage: Stage, run: Run, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["letters.py", "report"])
    stage.play = lambda step, sample, attempt: 3 * (sample == "bob")
    (run_id,) = drive(request_of(stage.store), stage).run_ids
    run("report")
    assert f"python letters.py logs bob upper --run {run_id}" in (world / "report.html").read_text()


def test_a_run_is_watched_to_its_end(stage: Stage, run: Run, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.is_open = False
    request = request_of(stage.store)
    (run_id,) = drive(request, stage, detach=True).run_ids
    pages: list[tuple[float, str]] = []

    def end_it(seconds: float) -> None:
        pages.append((seconds, (world / "report.html").read_text()))
        stage.is_open = True
        watch(request, NullListener())

    monkeypatch.setattr(interrupts, "pause", end_it)
    told = run("report", "--watch", "--every", "5", **ALONE)
    page = (world / "report.html").read_text()
    assert told.code == CommandExit.DONE
    assert told.out == f"Wrote report.html ({len(page.encode()):,} bytes) about run {run_id}.\n"
    ((seconds, live),) = pages
    assert seconds >= 5
    assert '<meta http-equiv="refresh" content="5">' in live
    assert "loaded again every 5 s" in live
    assert "as of 2" in live
    assert '<span class="badge done">7 done</span>' in page
    assert "refresh" not in page.split("<style>")[0]


def test_watching_ends_with_what_is_not_live(
    stage: Stage, run: Run, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.is_open = False
    drive(request_of(stage.store), stage, detach=True)
    stage.drain(stage._act)
    pauses: list[float] = []
    monkeypatch.setattr(interrupts, "pause", pauses.append)
    assert run("report", "--watch", **ALONE).code == CommandExit.DONE
    assert len(pauses) == 2
    assert "refresh" not in (world / "report.html").read_text().split("<style>")[0]


def test_a_page_is_written_less_often_when_it_takes_long(
    stage: Stage, run: Run, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.is_open = False
    drive(request_of(stage.store), stage, detach=True)
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr("batch_pipeline.cli.report.monotonic", lambda: next(clock))
    pauses: list[float] = []

    def end_it(seconds: float) -> None:
        pauses.append(seconds)
        stage.drain(stage._act)

    monkeypatch.setattr(interrupts, "pause", end_it)
    run("report", "--watch", **ALONE)
    assert pauses == [180, 30, 30], "what is over is not waited for"


def test_ctrl_c_leaves_a_page_that_is_not_loaded_again(
    stage: Stage, run: Run, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.is_open = False
    drive(request_of(stage.store), stage, detach=True)

    def press(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(interrupts, "pause", press)
    assert run("report", "--watch", **ALONE).code == CommandExit.INTERRUPTED
    page = (world / "report.html").read_text()
    assert "refresh" not in page.split("<style>")[0]
    assert "3 sent" in page


def test_a_store_has_a_page_of_all_its_cells_and_runs(stage: Stage, run: Run, world: Path) -> None:
    first = drive(request_of(stage.store, "ann"), stage).run_ids[0]
    stage.play = lambda step, sample, attempt: 3 * ((step, sample) == ("upper", "bob"))
    second = drive(request_of(stage.store, description=HOSTILE), stage).run_ids[0]
    told = run("report", "--all", "-o", "all.html", **ALONE)
    page = (world / "all.html").read_text()
    assert told.out.endswith(f"about all cells of {stage.store.url}.\n")
    assert "2 to run, 1 failed" in page or "1 failed, 2 to run" in page
    assert "upper of bob broke." in page
    assert page.index(second) < page.index(first), "the newest run first"
    assert meta_of(page)["run"] == ""
    assert [detail["sample"] for detail in meta_of(page)["details"]] == ["bob"]
    assert "logs bob upper</code>" in page, "of whatever run tried it last"
    elements = Elements()
    elements.feed(page)
    assert "img" not in elements.tags
    assert not elements.attributes & {"src", "href", "style", "onerror", "onclick"}


def test_with_the_pipelines_file_all_of_its_samples_are_on_the_page(stage: Stage, run: Run, world: Path) -> None:
    for name in ("ann", "bob"):
        stage.store.put(f"SR/{name}.txt", b"text")
    (world / "samples.txt").write_text("ann\nbob\n")
    told = run("report", "--all", "--sources", "SR", "--sample-list-file", "samples.txt")
    assert told.code == CommandExit.DONE, told.err
    assert "4 to run" in (world / "report.html").read_text()


def test_all_goes_without_a_run(stage: Stage, run: Run, world: Path) -> None:
    told = run("report", "last", "--all", **ALONE)
    assert (told.code, told.err) == (
        CommandExit.USAGE,
        "Error: --all goes with neither RUN nor --cells. Give one of them.\n",
    )


def test_the_page_of_a_driver_has_its_log_and_its_runs(stage: Stage, run: Run, world: Path) -> None:
    driver = RunRecord(run_id="01JD0000000000000000000000", started_at="2026-11-30T12:00:00.000Z", kind="driver")
    stage.store.put(layout.run_record(driver.run_id), json.dumps(asdict(driver)).encode())
    stage.store.put(layout.log(driver.run_id, "driver", layout.COHORT, 1), f"begins\n{HOSTILE}\n".encode())
    (begun,) = drive(request_of(stage.store), stage).run_ids
    record = stage.store.get_json(layout.run_record(begun))
    stage.store.put(layout.run_record(begun), json.dumps(record | {"parent_run": driver.run_id}).encode())
    assert run("report", driver.run_id, **ALONE).code == CommandExit.DONE
    page = (world / "report.html").read_text()
    assert f"batch-pipeline report {begun}" in page
    assert "begins\n&lt;/script&gt;" in page


@pytest.mark.parametrize("number", [-5, 253_402_300_799_000])
@pytest.mark.parametrize("name", ["started_ms", "duration_ms", "lost_ms", "interrupted_ms"])
def test_times_that_cannot_be_right_are_left_out_and_told(
    stage: Stage, run: Run, world: Path, name: str, number: int
) -> None:
    """A machine's clock was wrong, or a receipt was written by hand."""
    (run_id,) = drive(request_of(stage.store), stage).run_ids
    table = CellTable.read(stage.store, run_id)
    writer = CellTableWriter(run_id, table.steps["upper"].samples, done=7, failed=0, measured=True)
    for machine in table.machines:
        writer.machine(machine)
    for step, cells in table.steps.items():
        if step == "upper":
            cells.columns[name][1] = number
        writer.add(cells)
    writer.write(stage.store)
    told = run("report", **ALONE)
    assert told.code == CommandExit.DONE, told.err
    assert "1 time of cells cannot be right (below 0 or beyond the year 2100) and are left out." in told.err
    assert run("runs", "show", run_id, **ALONE).code == CommandExit.DONE
