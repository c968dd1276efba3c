"""What a job brings along, as the server keeps it: across a restart, beside others, and when it is of no use."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from batch_pipeline.localbatch.client import stop
from batch_pipeline.localbatch.endpoint import Endpoint
from batch_pipeline.localbatch.hosts.executor import EXPECTED_WORKERS
from batch_pipeline.localbatch.hosts.journal import JournalWriter
from batch_pipeline.localbatch.worker import Worker
from batch_pipeline.wire.toolchain import HEADER, Toolchain, toolchain_of
from tests.localbatch.conftest import connect, describe, eventually, start, submit

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient

pytestmark = pytest.mark.engine

OURS = Toolchain.of_this_process()


def submit_with(client: BatchClient, header: Toolchain | str, script: str, **more: Any) -> str:
    """Submits a shell script whose job brings this along."""

    def bring(params: dict[str, Any], **_: Any) -> None:
        params["headers"][HEADER] = header if isinstance(header, str) else header.to_header()

    client.meta.events.register("before-call.batch.SubmitJob", bring)
    try:
        return submit(client, containerOverrides={"command": ["sh", "-c", script]}, **more)
    finally:
        client.meta.events.unregister("before-call.batch.SubmitJob", bring)


def ended(client: BatchClient, job_id: str) -> dict[str, Any]:
    """The job, once it has ended."""
    eventually(lambda: describe(client, job_id)[0]["status"] in ("SUCCEEDED", "FAILED"))
    return describe(client, job_id)[0]


def test_jobs_of_two_toolchains_share_the_slots_and_no_worker(real: BatchClient, tmp_path: Path) -> None:
    """Both run at once: each ends when it sees the other."""
    script = "umask > $HOME/seen; echo $PPID >> $HOME/seen; until [ -e $HOME/../{}/seen ]; do sleep 0.02; done"
    for name, umask in (("a", 0o002), ("b", 0o027)):
        (tmp_path / name).mkdir()
        other = {"a": "b", "b": "a"}[name]
        brought = replace(OURS, umask=umask, variables={**OURS.variables, "HOME": str(tmp_path / name)})
        job_id = submit_with(real, brought, script.format(other))
    assert ended(real, job_id)["status"] == "SUCCEEDED"
    (mask_a, worker_a), (mask_b, worker_b) = ((tmp_path / name / "seen").read_text().split() for name in ("a", "b"))
    assert (mask_a, mask_b) == ("0002", "0027")
    assert worker_a != worker_b


def test_workers_start_when_definitions_are_looked_up_and_run_what_comes(real: BatchClient, state: Path) -> None:
    brought = replace(OURS, variables={**OURS.variables, "TZ": "Asia/Tokyo"})

    def bring(params: dict[str, Any], **_: Any) -> None:
        params["headers"][HEADER] = brought.to_header()

    real.describe_job_definitions(jobDefinitionName="none")
    assert not list((state / "workers").iterdir())
    real.meta.events.register("before-call.batch.DescribeJobDefinitions", bring)
    for _ in range(2):
        real.describe_job_definitions(jobDefinitionName="none")
        eventually(lambda: len(list((state / "workers").glob("*.jsonl"))) == EXPECTED_WORKERS)
    assert ended(real, submit_with(real, brought, "true"))["status"] == "SUCCEEDED"
    assert len(list((state / "workers").glob("*.jsonl"))) == EXPECTED_WORKERS


def test_a_worker_loads_ahead_what_runs_cells_unless_an_order_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def load(name: str) -> None:
        loaded.append(name)
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("batch_pipeline.localbatch.worker.import_module", load)
    ours, theirs = socket.socketpair()
    journal = JournalWriter(str(tmp_path / "journal"), 0)
    with ours, theirs:
        Worker(theirs, journal, str(tmp_path)).load_ahead()
        assert loaded == ["batch_pipeline.container.entry", "batch_pipeline.container.cell"]
        ours.sendall(b"{}\n")
        Worker(theirs, journal, str(tmp_path)).load_ahead()
    assert len(loaded) == 2


def test_an_interpreter_that_does_not_run_is_no_harm_to_a_look_up(real: BatchClient) -> None:
    real.meta.events.register(
        "before-call.batch.DescribeJobDefinitions",
        lambda params, **_: params["headers"].update({HEADER: replace(OURS, python="/no/such/python").to_header()}),
    )
    assert real.describe_job_definitions(jobDefinitionName="none")["jobDefinitions"] == []
    assert ended(real, submit_with(real, OURS, "true"))["status"] == "SUCCEEDED"


@pytest.mark.parametrize(
    ("python", "reason"), [("/no/such/python", "/no/such/python: No such file"), ("/bin/false", "server.log says why")]
)
def test_an_interpreter_that_does_not_run_ends_the_job_and_nothing_else(
    real: BatchClient, python: str, reason: str
) -> None:
    job = ended(real, submit_with(real, replace(OURS, python=python), "true"))
    assert (job["status"], job["statusReason"]) == ("FAILED", "Task failed to start")
    assert reason in job["container"]["reason"]
    assert job["container"]["reason"].startswith("CannotStartContainerError: ")
    assert ended(real, submit_with(real, OURS, "true"))["status"] == "SUCCEEDED"


def test_a_server_that_is_started_again_knows_what_its_jobs_brought(
    state: Path, endpoint: Endpoint, real: BatchClient, tmp_path: Path
) -> None:
    first = submit(
        real, size=2, containerOverrides={"command": ["sh", "-c", f"until [ -e {tmp_path}/go ]; do sleep 0.02; done"]}
    )
    brought = replace(OURS, umask=0o007, variables={**OURS.variables, "TZ": "Asia/Tokyo"})
    second = submit_with(
        real, brought, f"umask > {tmp_path}/seen; echo $TZ >> {tmp_path}/seen", after=[{"jobId": first}]
    )
    # As an earlier version has kept a job.
    stop(state)
    with sqlite3.connect(state / "batch.sqlite") as database:
        (body,) = database.execute("SELECT body FROM job WHERE id = ?", (first,)).fetchone()
        old = {name: value for name, value in json.loads(body).items() if name != "toolchain"}
        database.execute("UPDATE job SET body = ? WHERE id = ?", (json.dumps(old), first))
    database.close()
    client = connect(start(state))
    (tmp_path / "go").touch()
    assert ended(client, second)["status"] == "SUCCEEDED"
    assert (tmp_path / "seen").read_text().split() == ["0007", "Asia/Tokyo"]


def test_what_is_not_as_agreed_is_refused(real: BatchClient) -> None:
    with pytest.raises(ClientError, match="is not as agreed"):
        submit_with(real, "{}", "true")


def test_long_search_paths_arrive(real: BatchClient, tmp_path: Path) -> None:
    path = os.pathsep.join([*(f"/modules/{number:060d}/bin" for number in range(1500)), os.environ["PATH"]])
    brought = replace(OURS, variables={**OURS.variables, "PATH": path})
    ended(real, submit_with(real, brought, f"printf %s $PATH > {tmp_path}/seen"))
    assert (tmp_path / "seen").read_text() == path


def test_nothing_but_names_of_the_list_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    told = {
        "PATH": "bin:/usr/bin:",
        "CONDA_PREFIX": "/conda",
        "LC_TIME": "C",
        "EBROOTPICARD": "/modules/picard",
        "R_LIBS_USER": "~/R/%v",
        "LD_LIBRARY_PATH": "/lib\udcff",
        "DOCKER_HOST": "ssh://me@machine",
        "REF_PATH": "https://user:hidden@host/%s",
        "AWS_SECRET_ACCESS_KEY": "hidden",
        "BATCH_PIPELINE__POOL__URL": "couchdb://user:hidden@host",
        "JAVA_TOOL_OPTIONS": "-Dhttps.proxyPassword=hidden",
        "https_proxy": "http://user:hidden@host",
        "LD_PRELOAD": "/hidden.so",
    }
    monkeypatch.setattr("os.environ", told)
    brought = Toolchain.of_this_process()
    assert brought.python == sys.executable
    assert brought.variables == {
        "PATH": f"{tmp_path}/bin:/usr/bin:{tmp_path}",
        "CONDA_PREFIX": "/conda",
        "LC_TIME": "C",
        "EBROOTPICARD": "/modules/picard",
        "R_LIBS_USER": "~/R/%v",
        "LD_LIBRARY_PATH": "/lib\udcff",
        "DOCKER_HOST": "ssh://me@machine",
    }
    assert toolchain_of(brought.to_header()) == brought
    forged = brought.to_header().replace("CONDA_PREFIX", "LD_PRELOAD")
    assert "LD_PRELOAD" not in toolchain_of(forged).variables
