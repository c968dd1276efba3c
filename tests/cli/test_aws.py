"""What `doctor` and `plan` tell of AWS: a virtual Batch stands in for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from batch_pipeline import backends
from batch_pipeline.backends.aws_clients import Clients, attached_maker
from batch_pipeline.backends.batch import BatchBackend
from batch_pipeline.backends.memory import MemoryBackend
from batch_pipeline.config import Settings
from batch_pipeline.localbatch.testing import VirtualBatch
from batch_pipeline.wire.contract import CommandExit
from tests.cli.letters import Run

LIST = ("--sample-list-file", "list.txt")
AWS = ("--backend", "aws", "--store", "store/default")


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch) -> VirtualBatch:
    """AWS Batch with a queue, as every command finds it; another service stands in for the rest of AWS."""
    batch = VirtualBatch(queues=("mixed",))

    def create(settings: Settings) -> BatchBackend:
        return BatchBackend(settings, clients=Clients(attached_maker(batch.attach)))

    monkeypatch.setattr(backends, "create", create)
    monkeypatch.setenv("BATCH_PIPELINE__AWS__ENDPOINT", "http://127.0.0.1:1")
    return batch


def test_doctor_finds_what_is_wrong_on_aws(world: Path, run: Run, batch: VirtualBatch) -> None:
    batch.client("batch").update_compute_environment(computeEnvironment="embedded", state="DISABLED")
    (world / "store/default/SR/S2.txt").unlink()
    told = run("doctor", *LIST, *AWS, "--tag", "a;b=c")
    assert told.code == CommandExit.FAILED
    for words in (
        "BAD  limits: Jobs upper-0, count-0: the tag a;b=c must be",
        "BAD  sources: upper of S2:",
        "ok   identity: not checked: another service stands in for AWS",
        "BAD  queue: The compute environment embedded of queue mixed is disabled and starts no jobs.\n",
        "BAD  image: Step upper, count names no image, and AWS runs containers only.\n       Build",
    ):
        assert words in told.out.replace("-0-0", "-0")
    assert "ok   plan:" not in told.out


def test_doctor_without_a_pipeline_looks_at_the_queue(world: Path, run: Run, batch: VirtualBatch) -> None:
    told = run("doctor", *AWS, workflow=None)
    assert "ok   queue: mixed: embedded" in told.out
    batch.client("batch").update_job_queue(jobQueue="mixed", state="DISABLED")
    assert "BAD  queue: The job queue mixed is disabled" in run("doctor", *AWS, workflow=None).out


def test_doctor_tells_a_wrong_list_once(world: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "create", lambda _: MemoryBackend())
    assert run("doctor", "--sample-list-file", "none.txt").out.count("The sample list none.txt") == 1
    assert "ok   plan: 2 jobs to send, within what AWS takes" in run("doctor", *LIST).out


def test_a_plan_shows_its_payloads(world: Path, run: Run) -> None:
    told = run("plan", *LIST, "--payloads", "--tag", "owner=ada", "--share", "lab")
    assert told.code == CommandExit.DONE
    first = told.out.index("upper-0-0: ")
    size = int(told.out[first:].split()[1].replace(",", ""))
    shown, _ = json.JSONDecoder().raw_decode(told.out[told.out.index("{", first) :])
    assert size == len(json.dumps(shown).encode())
    assert shown["tags"]["owner"] == "ada"
    assert shown["shareIdentifier"] == "lab"
    assert shown["containerOverrides"]["environment"]
    assert not (world / "store/default/runs").exists()


def test_payloads_and_estimate_as_json(world: Path, run: Run) -> None:
    record = json.loads(run("plan", *LIST, "--payloads", "--estimate", "--json").out)
    assert [payload["job"] for payload in record["payloads"]] == [job["job"] for job in record["jobs"]]
    assert record["problems"] == []
    assert record["estimate"]["guessed"] == ["upper", "count"]
    assert record["estimate"]["cost"] > 0
    assert {"payloads", "estimate"}.isdisjoint(json.loads(run("plan", *LIST, "--json").out))


def test_a_plan_that_aws_would_not_take_says_so(world: Path, run: Run) -> None:
    told = run("plan", *LIST, "--payloads", "--tag", "batch-pipeline-run=mine")
    assert told.code == CommandExit.FAILED
    assert "The tag batch-pipeline-run is set by the program itself" in told.err


def test_an_estimate_says_what_it_rests_on(world: Path, run: Run) -> None:
    told = run("plan", *LIST, "--estimate")
    assert "a guess" in told.out
    assert "No receipts yet of upper, count: assumes 10 min a cell." in told.out
    assert run("run", *LIST, "--dry-run").code == CommandExit.DONE


def test_a_run_that_aws_would_not_take_writes_nothing(world: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = MemoryBackend()
    monkeypatch.setattr(backends, "create", lambda _: memory)
    told = run(*LIST, "--priority", "3")
    assert told.code == CommandExit.USAGE
    assert "a priority counts within a share only" in told.err
    assert not memory.jobs
    assert not list((world / "store/default").rglob("runs/*/run.json"))
