"""A driver is recorded before it is sent, and what is sent is what the gate let through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.access.admission_context import admission_context_of, identity_of
from batch_pipeline.access.gate import Grant, decide
from batch_pipeline.access.launching import launch
from batch_pipeline.backends.base import JobRequest, JobState
from batch_pipeline.backends.memory import MemoryBackend
from batch_pipeline.config import Settings, load_settings
from batch_pipeline.records.history import read_events
from batch_pipeline.records.record import read_record
from batch_pipeline.run.driver_jobs import cancel_driver, ended, is_driver
from batch_pipeline.wire import layout
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.errors import BackendFailed, ContractBroken, StoreFailed, SubmissionRefused, SubmissionUnknown
from batch_pipeline.wire.order import DriverOrder, secret_variable
from batch_pipeline.wire.store import Store, open_store
from tests.access.lab import ALICE, POLICY, SHA, ask, facts, policy

ARN = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:git-Ab12Cd"


@pytest.fixture
def settings() -> Settings:
    return load_settings()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "main"), create=True)


@pytest.fixture
def grant(store: Store) -> Grant:
    return granted(store)


def granted(store: Store, text: str = POLICY, **changes: Any) -> Grant:
    rules = policy(text.replace("s3://fusions-main", str(store.folder)))
    return decide(ask(**changes), rules, ALICE, facts())


class Watching(MemoryBackend):
    """Notes what the store held at the moment of each submission."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.held: list[set[str]] = []

    def submit(self, request: JobRequest) -> str:
        self.held.append({entry.key.split("/", 2)[2] for entry in self.store.list("runs/")})
        return super().submit(request)


def only_run(store: Store) -> str:
    (run_id,) = store.folders("runs/")
    return run_id


def test_all_is_recorded_before_the_job_is_sent(store: Store, grant: Grant, settings: Settings) -> None:
    backend = Watching(store)
    launched = launch(grant, settings, backend, argv=["submit"])
    assert backend.held == [{"run.json", "driver.json", "config.toml", "submissions/driver/intent.json"}]
    sent = store.get_json(layout.submission(launched.run_id, "driver", "sent.json"))
    assert sent["native_id"] == launched.native_id


def test_the_record_tells_who_what_where_and_by_which_policy(store: Store, grant: Grant, settings: Settings) -> None:
    launched = launch(grant, settings, MemoryBackend(), argv=["submit", "--token", "hunter2"])
    record = read_record(store, launched.run_id)
    assert (record.kind, record.dataset, record.access_level) == ("driver", "fusions", "standard")
    assert (record.user, record.commit, record.output_prefix) == (ALICE.name, SHA, "analysis/cohort-7/v2")
    assert record.images == {"driver": grant.image}
    value = store.get_json(layout.run_record(launched.run_id))
    assert value["policy_sha256"] == grant.policy_sha256
    assert value["tree"] == grant.tree
    assert "hunter2" not in json.dumps(value)
    assert record.config_sha256 == sha256_of_bytes(store.get(layout.driver_config(launched.run_id)))


def test_the_job_has_the_levels_role_and_queue_and_the_orders_digest(
    store: Store, grant: Grant, settings: Settings
) -> None:
    backend = MemoryBackend()
    launched = launch(grant, settings, backend)
    request = backend.jobs[launched.native_id].request
    container = request.definition["containerProperties"]
    assert (request.queue, container["jobRoleArn"]) == ("main", grant.job_role)
    assert container["image"] == grant.image
    order = store.get(layout.driver_order(launched.run_id))
    assert request.environment["BATCH_PIPELINE_DRIVER_SHA256"] == sha256_of_bytes(order)
    assert launched.run_id in request.name
    assert request.tags["batch-pipeline-run"] == launched.run_id
    told = DriverOrder.from_json(json.loads(order))
    assert [(item.url, item.commit, item.path) for item in told.checkouts] == [(grant.repository, SHA, "")]


def test_a_secret_goes_to_the_job_by_reference(store: Store, settings: Settings) -> None:
    backend = MemoryBackend()
    text = POLICY.replace("env:FUSIONS_TOKEN", f"secretsmanager:{ARN}")
    launched = launch(granted(store, text), settings, backend)
    request = backend.jobs[launched.native_id].request
    name = secret_variable(f"secretsmanager:{ARN}")
    assert request.definition["containerProperties"]["secrets"] == [{"name": name, "valueFrom": ARN}]
    assert name not in request.environment


def test_two_runs_of_one_grant_are_two(store: Store, grant: Grant, settings: Settings) -> None:
    backend = MemoryBackend()
    first, second = (launch(grant, settings, backend) for _ in range(2))
    assert first.run_id != second.run_id
    assert set(store.folders("runs/")) == {first.run_id, second.run_id}


def test_a_refused_submission_leaves_a_record_that_says_so(store: Store, grant: Grant, settings: Settings) -> None:
    backend = MemoryBackend()
    backend.fail_next(SubmissionRefused("The queue 'main' is not there."))
    with pytest.raises(SubmissionRefused):
        launch(grant, settings, backend)
    run_id = only_run(store)
    record = read_record(store, run_id)
    assert record.status == "failed"
    assert "The queue 'main' is not there." in record.problem
    assert next(event.event for event in read_events(store, run_id)) == "submission failed"


@pytest.mark.parametrize("queued", [True, False])
def test_a_job_in_doubt_is_looked_up_before_it_is_sent_again(
    queued: bool, store: Store, grant: Grant, settings: Settings
) -> None:
    backend = MemoryBackend()
    backend.fail_next(SubmissionUnknown("The answer was lost."), queued=queued)
    launched = launch(grant, settings, backend, sleep=lambda seconds: None)
    assert list(backend.jobs) == [launched.native_id]


def test_a_store_that_cannot_be_written_sends_nothing(store: Store, grant: Grant, settings: Settings) -> None:
    assert store.folder is not None
    (store.folder / "runs").write_text("in the way")
    backend = MemoryBackend()
    with pytest.raises(StoreFailed):
        launch(grant, settings, backend)
    assert backend.jobs == {}


def test_a_driver_that_left_no_end_gets_one(store: Store, grant: Grant, settings: Settings) -> None:
    backend = MemoryBackend()
    launched = launch(grant, settings, backend)
    assert ended(store, backend, launched.run_id, launched.native_id) is None
    backend.finish(launched.native_id, exit_code=None, status_reason="Host EC2 (instance i-1) terminated.")
    record = ended(store, backend, launched.run_id, launched.native_id)
    assert record is not None
    assert record.status == "failed"
    assert "Host EC2" in record.problem


def test_a_cancelled_driver_is_ended_and_its_record_says_by_whom(
    store: Store, grant: Grant, settings: Settings
) -> None:
    backend = MemoryBackend()
    launched = launch(grant, settings, backend)
    assert is_driver(store, launched.run_id)
    assert not is_driver(store, "01ARZ3NDEKTSV4RRFFQ69G5FAV")
    for _ in range(2):
        assert cancel_driver(store, backend, launched.run_id, "bob") == []
    assert backend.jobs[launched.native_id].children[0].state is JobState.FAILED
    assert read_record(store, launched.run_id).problem == "cancelled: by bob"
    assert [event.event for event in read_events(store, launched.run_id)] == ["cancelled"]


def test_a_driver_that_has_ended_stays_as_it_ended(store: Store, grant: Grant, settings: Settings) -> None:
    backend = MemoryBackend()
    launched = launch(grant, settings, backend)
    store.put_json(layout.run_end(launched.run_id), {"ended_at": "2026-11-21T00:00:00.000Z", "done": 1, "failed": 0})
    cancel_driver(store, backend, launched.run_id, "bob")
    assert read_record(store, launched.run_id).status == "done"


# Who asks, and where it is looked at.


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()


def test_on_this_machine_a_person_is_its_user(backend: MemoryBackend) -> None:
    assert identity_of(backend).source == "machine"


class Account:
    """What is asked of AWS."""

    complete = True

    def __init__(self, arn: str) -> None:
        self.arn = arn

    def identity(self) -> tuple[str, str]:
        return "111122223333", self.arn

    def secret(self, name: str) -> str:
        if name != ARN:
            raise BackendFailed("There is no such secret.")
        return "hunter2"


class OnAws(MemoryBackend):
    def __init__(self, arn: str = "") -> None:
        super().__init__()
        self.account = Account(arn)


def test_a_session_of_a_role_may_be_named_by_the_role() -> None:
    found = identity_of(OnAws("arn:aws:sts::111122223333:assumed-role/team/alice"))
    assert found.names == {"arn:aws:sts::111122223333:assumed-role/team/alice", "arn:aws:iam::111122223333:role/team"}
    assert identity_of(OnAws("arn:aws:iam::111122223333:user/bob")).names == {"arn:aws:iam::111122223333:user/bob"}


def test_tokens_are_read_where_their_references_say(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("from a file\n")
    monkeypatch.setenv("MY_TOKEN", "from a variable")
    tokens = admission_context_of(settings, OnAws()).tokens
    assert tokens(f"file:{tmp_path}/token") == "from a file"
    assert tokens("env:MY_TOKEN") == "from a variable"
    assert tokens(f"secretsmanager:{ARN}") == "hunter2"


@pytest.mark.parametrize("reference", ["env:NOT_THERE", "file:/not/there"])
def test_a_token_that_is_not_there_is_named_by_its_reference(reference: str, settings: Settings) -> None:
    with pytest.raises(ContractBroken, match=r"NOT_THERE|/not/there"):
        admission_context_of(settings, MemoryBackend()).tokens(reference)
