"""`run --prepare`: what is missing is made first, as tasks of the same Luigi workflow."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.luigi_adapter import daemon
from batch_pipeline.luigi_adapter.scheduler import call
from batch_pipeline.wire.contract import CommandExit
from tests.flow.lab import Lab, until
from tests.luigi.conftest import free_port

pytestmark = pytest.mark.engine

PREPARED = {"prepare.code", "prepare.reference", "prepare.Indexed"}


@pytest.fixture
def indexed(lab: Lab) -> Lab:
    """A pipeline whose reference is not built; the words that it is built of are there."""
    lab.file = "indexed.py"
    (lab.folder / "list").mkdir()
    (lab.folder / "list" / "words.txt").write_text("of\nwords\n")
    return lab


def options(lab: Lab) -> list[str]:
    """Those that every command about these cells has."""
    words = lab.folder / "list" / "words.txt"
    samples = ["--sample-list-file", str(lab.sample_list), "--sources", str(lab.sources)]
    return [*samples, "--reference", "en", "--prepare", "--reference-file", f"words={words}"]


def prepare(lab: Lab, *words: str, code: int = 0) -> Any:
    return lab.run("run", *options(lab), *words, code=code)


@pytest.fixture
def luigid(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """URL of a scheduler, and the options that lead to it."""
    port = free_port()
    yield (
        daemon.start(port=port, state_folder=tmp_path / "luigid")[0],
        ["--scheduler-host", "127.0.0.1", "--scheduler-port", str(port)],
    )
    assert daemon.stop(tmp_path / "luigid")


def tasks_by_family(url: str) -> dict[str, dict[str, Any]]:
    """Name of each task on the page -> what the scheduler knows of it, with its id."""
    listed = call(url, "task_list", status="", upstream_status="")
    return {task["display_name"].partition("(")[0]: {**task, "id": id} for id, task in listed.items()}


def test_a_missing_reference_is_built_as_a_task_of_the_same_workflow(
    indexed: Lab, luigid: tuple[str, list[str]]
) -> None:
    url, scheduler = luigid
    # The builder waits until the scheduler was seen while it builds.
    held = indexed.folder / "list" / "held"
    held.touch()
    command = indexed.start("run", *options(indexed), *scheduler)
    try:
        until(lambda: tasks_by_family(url).get("prepare.reference", {}).get("status") == "RUNNING", "it is being built")
        seen = tasks_by_family(url)
        assert seen["prepare.Indexed"]["status"] == "PENDING"
        assert "lookup" not in seen, "the steps come when the plan is known"
    finally:
        held.unlink()
        _, err = command.communicate(timeout=120)
    assert command.returncode == 0, err
    assert "Preparing the reference en (it is not built) …" in err
    assert len(indexed.runs()) == 2
    assert {cell for cell in indexed.receipts() if cell[0] == "lookup"} == indexed.sent()

    tasks = tasks_by_family(url)
    assert set(tasks) == {*PREPARED, "lookup", "Indexed"}
    assert {task["status"] for task in tasks.values()} == {"DONE"}
    graph = call(url, "dep_graph", task_id=tasks["Indexed"]["id"])
    names = {task["id"]: name for name, task in tasks.items()}
    deps = {names[id]: {names[dep] for dep in node["deps"]} for id, node in graph.items()}
    assert deps == {
        "Indexed": {"lookup"},
        "lookup": {"prepare.Indexed"},
        "prepare.Indexed": {"prepare.code", "prepare.reference"},
        "prepare.code": set(),
        "prepare.reference": set(),
    }


def test_a_second_time_there_is_nothing_to_prepare(indexed: Lab) -> None:
    prepare(indexed)

    ran = prepare(indexed)

    assert "Preparing" not in ran.err
    assert "Nothing to do: 3 of 3" in ran.out
    assert len(indexed.runs()) == 2


def test_a_plan_shows_what_would_be_prepared_and_makes_nothing(indexed: Lab) -> None:
    ran = indexed.run("plan", *options(indexed)[4:])

    assert "reference    would be made: it is not built" in ran.out
    assert "code         would be made: it is not uploaded" in ran.out
    assert not indexed.store.exists()

    prepare(indexed)
    planned = indexed.json("plan", *options(indexed)[4:])
    assert planned["preparations"] == {"code": "", "reference": ""}

    shutil.rmtree(indexed.store / "code")
    without_code = indexed.run("plan", *options(indexed)[4:]).out
    assert "code         would be made: it is not uploaded" in without_code
    assert "an image" not in without_code


def test_a_reference_that_fails_leaves_the_run_unsent(indexed: Lab) -> None:
    (indexed.folder / "list" / "broken").touch()

    ran = prepare(indexed, code=1)

    assert "Could not prepare the reference en: " in ran.err
    assert "The index is broken" in ran.err
    assert "The run was not submitted. To make it by itself: `reference en`" in ran.err
    assert len(indexed.runs()) == 1, "that of the reference"
    assert not list((indexed.store / "receipts").glob("lookup/*"))

    (indexed.folder / "list" / "broken").unlink()
    prepare(indexed)
    assert len([cell for cell in indexed.receipts() if cell[0] == "lookup"]) == 3


def test_a_reference_of_other_files_is_refused_and_nothing_is_sent(indexed: Lab) -> None:
    prepare(indexed)
    (indexed.folder / "list" / "words.txt").write_text("other words\n")

    ran = prepare(indexed, code=3)

    assert "Reference 'en' is there, built from other files" in ran.err
    assert len(indexed.runs()) == 2


def test_ctrl_c_while_the_reference_is_built_leaves_its_job_and_the_same_command_follows_it(indexed: Lab) -> None:
    held = indexed.folder / "list" / "held"
    held.touch()
    command = indexed.start("run", *options(indexed))
    until(indexed.live, "the job of the reference is on the queue")
    until(lambda: list((indexed.store / "runs").glob("*/submissions/*/sent.json")), "its id is written down")
    command.send_signal(signal.SIGINT)
    _, err = command.communicate(timeout=60)
    assert command.returncode == CommandExit.INTERRUPTED, err
    (run_id,) = indexed.runs()
    assert f"The jobs of {run_id} go on." in err

    held.unlink()
    prepare(indexed)

    assert len(indexed.runs()) == 2, "the reference was not sent again"
    assert len([cell for cell in indexed.receipts() if cell[0] == "lookup"]) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--reference-file", "verbs=x.txt"), "Index has no input 'verbs'; it has: words."),
        (("--reference-file", "words"), "'words' is not NAME=VALUE"),
        (("--reference-file", "words=gone.txt"), "The file for words, gone.txt, is not there."),
    ],
)
def test_files_that_no_builder_reads_are_refused(indexed: Lab, words: tuple[str, ...], message: str) -> None:
    given = options(indexed)[:-2]

    ran = indexed.run("run", *given, *words, code=2)

    assert message in ran.err
    assert not (indexed.store / "runs").exists()


def test_files_without_a_name_or_without_preparing_are_refused(indexed: Lab) -> None:
    file = options(indexed)[-2:]
    samples = options(indexed)[:4]
    assert "has no name. Give --reference NAME" in indexed.run("run", *samples, "--prepare", *file, code=2).err
    assert "--reference-file goes with --prepare" in indexed.run("run", *samples, *file, code=2).err


def test_a_driver_job_prepares_nothing(indexed: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_PIPELINE_ACCESS_LEVEL", "standard")

    ran = prepare(indexed, code=2)

    assert "--prepare is not allowed in a driver job (access level standard)" in ran.err
    assert not indexed.store.exists()


def test_the_settings_name_the_files_too(indexed: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    words = indexed.folder / "list" / "words.txt"
    monkeypatch.setenv("BATCH_PIPELINE__REFERENCE_FILES__WORDS", str(words))

    indexed.run("reference", "en")
    ran = indexed.run("run", *options(indexed)[:-2])

    assert "Preparing the reference" not in ran.err
    assert len(indexed.runs()) == 2
