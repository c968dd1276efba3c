"""The server and its workers die; no child is lost, and none runs twice at once."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batch_pipeline.localbatch.client import stop
from batch_pipeline.localbatch.endpoint import Endpoint
from batch_pipeline.localbatch.hosts.journal import read_journal
from batch_pipeline.wire.processes import find, kill_all, session_of, started_by
from batch_pipeline.wire.scratch import Scratch, own_folder
from tests.localbatch.conftest import (
    connect,
    define,
    describe,
    eventually,
    is_running,
    make_queue,
    start,
    statuses,
    submit,
)

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient

pytestmark = pytest.mark.faults


def prepare(state: Path, **options: Any) -> tuple[Endpoint, BatchClient]:
    endpoint = start(state, **options)
    client: BatchClient = connect(endpoint)
    make_queue(client)
    define(client)
    return endpoint, client


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def ended(client: BatchClient, job_id: str) -> bool:
    return str(describe(client, job_id)[0]["status"]) in ("SUCCEEDED", "FAILED")


def shell(script: str) -> dict[str, Any]:
    return {"command": ["sh", "-c", script]}


def begun(folder: Path, count: int = 1) -> bool:
    return len(list(folder.glob("begun-*"))) >= count


#: Fails if another attempt of the same child is at work; counts its attempts.
WORK = """
me=$AWS_BATCH_JOB_ARRAY_INDEX
mkdir {0}/live-$me || {{ touch {0}/TWICE-$me; exit 99; }}
echo x >> {0}/begun-$me
sleep {1}
echo x >> {0}/done-$me
rmdir {0}/live-$me
"""


@pytest.mark.parametrize("seed", range(4))
def test_the_server_is_killed_at_random_moments(state: Path, tmp_path: Path, seed: int) -> None:
    """Every child ends once, by the attempt that was running or by the only one."""
    chance = random.Random(seed)
    endpoint, client = prepare(state)
    first = submit(client, size=40, containerOverrides=shell(WORK.format(tmp_path, 0.02)))
    second = submit(
        client,
        size=40,
        after=[{"jobId": first, "type": "N_TO_N"}],
        containerOverrides=shell(f"test -e {tmp_path}/done-$AWS_BATCH_JOB_ARRAY_INDEX"),
    )
    for _ in range(6):
        # The moment is the point here; nothing is measured and any moment must do.
        time.sleep(chance.uniform(0, 0.25))
        kill(endpoint.pid)
        endpoint = start(state)
    client = connect(endpoint)
    eventually(lambda: ended(client, first) and ended(client, second))
    assert statuses(client, first, 40) == ["SUCCEEDED"] * 40
    assert statuses(client, second, 40) == ["SUCCEEDED"] * 40
    assert sorted(path.name for path in tmp_path.glob("TWICE-*")) == []
    assert [(tmp_path / f"begun-{index}").read_text() for index in range(40)] == ["x\n"] * 40


def test_a_child_that_outlived_its_server_is_adopted(state: Path, tmp_path: Path) -> None:
    endpoint, client = prepare(state)
    wait = (
        f"touch {tmp_path}/begun-$AWS_BATCH_JOB_ARRAY_INDEX; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; exit 5"
    )
    job_id = submit(client, size=3, containerOverrides=shell(wait))
    eventually(lambda: begun(tmp_path, 2))
    kill(endpoint.pid)
    client = connect(start(state))
    assert statuses(client, job_id, 3) == ["RUNNING", "RUNNING", "RUNNABLE"]
    (tmp_path / "go").touch()
    eventually(lambda: ended(client, job_id))
    children = describe(client, *(f"{job_id}:{index}" for index in range(3)))
    assert [child["container"]["exitCode"] for child in children] == [5, 5, 5]
    assert [len(child["attempts"]) for child in children] == [1, 1, 1]


def test_an_adopted_child_can_be_terminated(state: Path, tmp_path: Path) -> None:
    endpoint, client = prepare(state)
    job_id = submit(client, containerOverrides=shell(f"touch {tmp_path}/begun-0; sleep 1000"))
    eventually(lambda: begun(tmp_path))
    kill(endpoint.pid)
    client = connect(start(state))
    client.terminate_job(jobId=job_id, reason="enough")
    eventually(lambda: ended(client, job_id))
    (job,) = describe(client, job_id)
    assert (job["statusReason"], job["container"]["exitCode"]) == ("enough", 143)


def test_a_termination_outlives_the_server(state: Path, tmp_path: Path) -> None:
    endpoint, client = prepare(state, grace_seconds=1000)
    script = f"trap '' TERM; touch {tmp_path}/begun-0; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done"
    job_id = submit(client, containerOverrides=shell(script), retryStrategy={"attempts": 5})
    eventually(lambda: begun(tmp_path))
    client.terminate_job(jobId=job_id, reason="enough")
    kill(endpoint.pid)
    client = connect(start(state))
    eventually(lambda: ended(client, job_id))
    (job,) = describe(client, job_id)
    assert (job["statusReason"], job["isTerminated"], len(job["attempts"])) == ("enough", True, 1)


def test_a_child_that_ended_without_a_server_keeps_its_outcome(state: Path, tmp_path: Path) -> None:
    endpoint, client = prepare(state)
    script = f"touch {tmp_path}/begun-0; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; exit 5"
    job_id = submit(client, containerOverrides=shell(script))
    eventually(lambda: begun(tmp_path))
    workers = workers_of(endpoint)
    kill(endpoint.pid)
    (tmp_path / "go").touch()
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    client = connect(start(state))
    (job,) = describe(client, job_id)
    assert (job["status"], job["container"]["exitCode"], len(job["attempts"])) == ("FAILED", 5, 1)


def workers_of(endpoint: Endpoint) -> list[int]:
    """The processes that the server has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == endpoint.pid:
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def of_sessions(leaders: list[int]) -> list[int]:
    """The living processes of the sessions that some processes lead or led."""
    return find(lambda pid: session_of(pid) in leaders)


@pytest.mark.parametrize(("attempts", "wanted"), [(None, "FAILED"), (2, "SUCCEEDED")])
def test_a_child_that_died_with_its_server_lost_its_host(
    state: Path, tmp_path: Path, attempts: int | None, wanted: str
) -> None:
    endpoint, client = prepare(state)
    script = f'echo x >> {tmp_path}/begun-0; [ "$AWS_BATCH_JOB_ATTEMPT" = 2 ] || sleep 1000'
    more: Any = {"retryStrategy": {"attempts": attempts}} if attempts else {}
    job_id = submit(client, containerOverrides=shell(script), **more)
    eventually(lambda: begun(tmp_path))
    workers = workers_of(endpoint)
    for pid in (endpoint.pid, *workers):
        kill(pid)
    orphans = of_sessions(workers)
    client = connect(start(state))
    eventually(lambda: ended(client, job_id))
    (job,) = describe(client, job_id)
    assert job["status"] == wanted
    assert job["attempts"][0]["statusReason"] == "Host EC2 (instance i-embedded) terminated."
    assert len(job["attempts"]) == (attempts or 1)
    assert not of_sessions(workers), orphans


def test_a_worker_is_killed_before_what_it_runs(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it says of its command, which was killed with it, that it ended by itself with 137, as without memory.

    After each kill the worker has all the time that it needs.
    """
    endpoint, client = prepare(state)
    script = f'echo x >> {tmp_path}/begun-0; [ "$AWS_BATCH_JOB_ATTEMPT" = 2 ] || sleep 1000'
    job_id = submit(client, containerOverrides=shell(script), retryStrategy={"attempts": 2})
    eventually(lambda: begun(tmp_path))
    (pid,) = workers_of(endpoint)
    journals = [read_journal(path) for path in (state / "workers").glob("*.jsonl")]
    [journal] = [journal for journal in journals if journal.worker and journal.worker.pid == pid]
    assert journal.worker
    belongs = started_by(journal.worker, journal.mark)
    kill(endpoint.pid)
    send = signal.pidfd_send_signal

    def kill_slowly(victim: int, number: int) -> None:
        send(victim, number)
        eventually(lambda: not is_running(pid))

    with monkeypatch.context() as patch:
        patch.setattr(signal, "pidfd_send_signal", kill_slowly)
        eventually(lambda: kill_all(belongs))
    client = connect(start(state))
    eventually(lambda: ended(client, job_id))
    attempts = describe(client, job_id)[0]["attempts"]
    assert [attempt["container"].get("exitCode") for attempt in attempts] == [None, 0]
    assert attempts[0]["statusReason"] == "Host EC2 (instance i-embedded) terminated."


def test_a_worker_that_dies_fails_its_attempt_only(state: Path, tmp_path: Path) -> None:
    endpoint, client = prepare(state)
    script = f"touch {tmp_path}/begun-$AWS_BATCH_JOB_ARRAY_INDEX; while [ ! -e {tmp_path}/go ]; do sleep 0.01; done"
    job_id = submit(client, size=4, containerOverrides=shell(script))
    eventually(lambda: begun(tmp_path, 2))
    victim = workers_of(endpoint)[0]
    kill(victim)
    eventually(lambda: begun(tmp_path, 3))
    assert not of_sessions([victim])
    (tmp_path / "go").touch()
    eventually(lambda: ended(client, job_id))
    children = describe(client, *(f"{job_id}:{index}" for index in range(4)))
    assert sorted(child["container"]["exitCode"] for child in children) == [0, 0, 0, 137]


def test_workers_are_killed_at_random_moments(state: Path, tmp_path: Path) -> None:
    chance = random.Random(7)
    endpoint, client = prepare(state)
    script = WORK.format(tmp_path, 0.02).replace("mkdir", f"rmdir {tmp_path}/live-$me 2> /dev/null; mkdir")
    job_id = submit(client, size=60, containerOverrides=shell(script), retryStrategy={"attempts": 10})
    for _ in range(9):
        # Fewer deaths than attempts, so that no child can run out of them.
        time.sleep(chance.uniform(0, 0.3))
        workers = workers_of(endpoint)
        if workers:
            kill(chance.choice(workers))
    eventually(lambda: ended(client, job_id))
    assert statuses(client, job_id, 60) == ["SUCCEEDED"] * 60
    for index in range(60):
        (child,) = describe(client, f"{job_id}:{index}")
        codes = [attempt["container"].get("exitCode") for attempt in child["attempts"]]
        assert codes == [137] * (len(codes) - 1) + [0]


def test_stopping_the_server_politely_loses_nothing(state: Path, tmp_path: Path) -> None:
    endpoint, client = prepare(state)
    job_id = submit(client, size=10, containerOverrides=shell(WORK.format(tmp_path, 0.05)))
    eventually(lambda: begun(tmp_path))
    os.kill(endpoint.pid, signal.SIGTERM)
    eventually(lambda: not Path(f"/proc/{endpoint.pid}").exists() or not alive(endpoint.pid))
    client = connect(start(state))
    eventually(lambda: ended(client, job_id))
    assert [(tmp_path / f"begun-{index}").read_text() for index in range(10)] == ["x\n"] * 10


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_journals_of_the_dead_are_removed(state: Path, tmp_path: Path) -> None:
    endpoint, client = prepare(state)
    job_id = submit(client, size=5)
    eventually(lambda: ended(client, job_id))
    before = set((state / "workers").glob("*.jsonl"))
    assert before
    kill(endpoint.pid)
    client = connect(start(state))
    assert describe(client, job_id)[0]["status"] == "SUCCEEDED"
    eventually(lambda: not before & set((state / "workers").glob("*.jsonl")))


def test_what_was_terminated_does_not_outlive_the_server(state: Path, tmp_path: Path) -> None:
    """It was asked to end and had time for that; then nobody was left to make it."""
    _, client = prepare(state, grace_seconds=600)
    script = f"trap '' TERM; echo $$ >{tmp_path}/pid; while :; do sleep 0.05; done"
    job = submit(client, containerOverrides=shell(script))
    eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
    pid = int((tmp_path / "pid").read_text())
    client.terminate_job(jobId=job, reason="no longer wanted")

    stop(state)

    eventually(lambda: not is_running(pid))
    client = connect(start(state))
    eventually(lambda: ended(client, job))
    assert describe(client, job)[0]["statusReason"] == "no longer wanted"


def test_a_server_sweeps_the_scratch_of_killed_processes_and_of_no_living_one(state: Path, tmp_path: Path) -> None:
    """Living are an attempt that it adopts, and one that has nothing to do with it."""
    scratch = tmp_path / "scratch"
    endpoint, client = prepare(state, scratch=str(scratch))
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ndirname $0 > {tmp_path}/where; read line < {tmp_path}/go; test -x $0\n")
    os.mkfifo(tmp_path / "go")
    variables = {"BATCH_FILE_TYPE": "script", "BATCH_FILE_S3_URL": script.as_uri()}
    environment = [{"name": name, "value": value} for name, value in variables.items()]
    job = submit(client, containerOverrides={"environment": environment, "command": ["script"]})
    where = tmp_path / "where"
    eventually(lambda: where.exists() and where.read_text().endswith("\n"))
    kill(endpoint.pid)
    eventually(lambda: not is_running(endpoint.pid))
    killed, another = Scratch(str(scratch)), Scratch(str(scratch))
    killed.forget()
    client = connect(start(state, scratch=str(scratch)))
    eventually(lambda: not Path(killed.path).exists())
    (tmp_path / "go").write_text("on\n")
    eventually(lambda: ended(client, job))
    assert describe(client, job)[0]["status"] == "SUCCEEDED"
    another.close()
    # The adopted worker ends with its attempt, and takes its own away.
    eventually(lambda: os.listdir(own_folder(str(scratch))) == [])


def test_the_scratch_of_a_killed_attempt_goes_while_its_server_goes_on(state: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    _, client = prepare(state, scratch=str(scratch))
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\necho $PPID $0 > {tmp_path}/where; sleep 1000\n")
    variables = {"BATCH_FILE_TYPE": "script", "BATCH_FILE_S3_URL": script.as_uri()}
    environment = [{"name": name, "value": value} for name, value in variables.items()]
    job = submit(client, containerOverrides={"environment": environment, "command": ["script"]})
    where = tmp_path / "where"
    eventually(lambda: where.exists() and where.read_text().endswith("\n"))
    worker, path = where.read_text().split()
    assert Path(path).is_relative_to(own_folder(str(scratch)))
    kill(int(worker))
    eventually(lambda: ended(client, job))
    eventually(lambda: os.listdir(own_folder(str(scratch))) == [])
