"""The real server with real processes: execution, logs, limits, safety, life and death."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError

from batch_pipeline.localbatch.client import ensure, find, stop
from batch_pipeline.localbatch.endpoint import Endpoint, code_version, read_record
from batch_pipeline.wire.errors import BackendFailed
from batch_pipeline.wire.toolchain import Toolchain
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

pytestmark = pytest.mark.engine


def ended(client: BatchClient, *ids: str) -> bool:
    return all(job["status"] in ("SUCCEEDED", "FAILED") for job in describe(client, *ids))


def run(client: BatchClient, script: str, size: int | None = None, **more: Any) -> str:
    """Runs a shell script to its end and returns the job's id."""
    job_id = submit(client, size=size, containerOverrides={"command": ["sh", "-c", script]}, **more)
    eventually(lambda: ended(client, job_id))
    return job_id


def log_of(endpoint: Endpoint, job: dict[str, Any]) -> list[str]:
    stream = job["container"]["logStreamName"]
    found = connect(endpoint, "logs").get_log_events(
        logGroupName="/aws/batch/job", logStreamName=stream, startFromHead=True
    )
    return [event["message"] for event in found["events"]]


def test_children_run_as_processes_and_write_their_logs(endpoint: Endpoint, real: BatchClient) -> None:
    job_id = run(real, 'echo "child $AWS_BATCH_JOB_ARRAY_INDEX"; echo oops >&2; exit $AWS_BATCH_JOB_ARRAY_INDEX', 3)
    assert statuses(real, job_id, 3) == ["SUCCEEDED", "FAILED", "FAILED"]
    for index, child in enumerate(describe(real, *(f"{job_id}:{index}" for index in range(3)))):
        assert child["container"]["exitCode"] == index
        assert log_of(endpoint, child) == [f"child {index}", "oops"]


def test_nothing_of_the_servers_environment_reaches_a_child(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    endpoint = start(state, scratch="/tmp/scratch", cache="/tmp/cache")
    client = connect(endpoint)
    make_queue(client)
    define(client, environment=[{"name": "MINE", "value": "1"}])
    job_id = run(client, "env")
    names = {line.partition("=")[0] for line in log_of(endpoint, describe(client, job_id)[0])}
    allowed = {"MINE", "PWD", "_", "SHLVL", "OLDPWD", *Toolchain.of_this_process().variables, "PYTHONPATH"}
    batch = {"AWS_BATCH_JOB_ID", "AWS_BATCH_JOB_ATTEMPT", "AWS_BATCH_JQ_NAME", "AWS_BATCH_CE_NAME"}
    options = {"BATCH_PIPELINE_SCRATCH", "BATCH_PIPELINE_CACHE"}
    # Where to ask for keys, and none of them.
    asks = {"AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"}
    assert {"MINE", "PATH", "HOME"} | batch | options | asks <= names <= allowed | batch | options | asks


def test_a_child_starts_in_an_empty_folder_of_its_own(endpoint: Endpoint, real: BatchClient) -> None:
    define(real, command=["sh", "-c", "ls -A | wc -l; touch left-over; pwd"])
    first, second = run_plain(real), run_plain(real)
    (count, folder), (count_again, _) = (log_of(endpoint, describe(real, each)[0]) for each in (first, second))
    assert (count.strip(), count_again.strip()) == ("0", "0")
    assert not Path(folder).exists()


def run_plain(client: BatchClient, **more: Any) -> str:
    job_id = submit(client, **more)
    eventually(lambda: ended(client, job_id))
    return job_id


def test_what_a_child_leaves_behind_is_ended(endpoint: Endpoint, real: BatchClient) -> None:
    job_id = run(real, "sleep 1000 & echo $!")
    (pid,) = log_of(endpoint, describe(real, job_id)[0])
    eventually(lambda: not is_running(int(pid)))


@pytest.mark.parametrize("command", [["/no/such/program"], ["no-such-program"], ["/etc/passwd"]])
def test_a_command_that_cannot_be_started(real: BatchClient, command: list[str]) -> None:
    job_id = run_plain(real, containerOverrides={"command": command})
    (job,) = describe(real, job_id)
    assert (job["status"], job["statusReason"]) == ("FAILED", "Task failed to start")
    assert job["container"]["reason"].startswith("CannotStartContainerError:")
    assert "exitCode" not in job["container"]


def test_a_signal_shows_as_128_and_its_number(real: BatchClient) -> None:
    job_id = run(real, "kill -SEGV $$")
    assert describe(real, job_id)[0]["container"]["exitCode"] == 139


def test_workers_are_reused(endpoint: Endpoint, real: BatchClient) -> None:
    job_id = run(real, "echo $PPID", 20)
    children = describe(real, *(f"{job_id}:{index}" for index in range(20)))
    assert len({log_of(endpoint, child)[0] for child in children}) <= 2


def test_no_more_run_at_once_than_there_are_slots(real: BatchClient, tmp_path: Path) -> None:
    script = f"mkdir {tmp_path}/$$; ls -d {tmp_path}/[0-9]* | wc -l >> {tmp_path}/seen; sleep 0.05; rmdir {tmp_path}/$$"
    run(real, script, 12)
    assert max(map(int, (tmp_path / "seen").read_text().split())) == 2


def test_a_timeout_kills_what_does_not_stop(real: BatchClient) -> None:
    job_id = run(real, "trap '' TERM; while :; do sleep 0.1; done", timeout={"attemptDurationSeconds": 1})
    (job,) = describe(real, job_id)
    assert job["statusReason"] == "Job attempt duration exceeded timeout"
    assert job["container"]["exitCode"] == 137


def test_terminating_sends_sigterm_first(endpoint: Endpoint, real: BatchClient) -> None:
    script = "trap 'echo stopping; exit 3' TERM; echo up; while :; do sleep 0.02; done"
    job_id = submit(real, containerOverrides={"command": ["sh", "-c", script]})
    eventually(lambda: describe(real, job_id)[0]["status"] == "RUNNING" and log_of(endpoint, describe(real, job_id)[0]))
    real.terminate_job(jobId=job_id, reason="enough")
    eventually(lambda: ended(real, job_id))
    (job,) = describe(real, job_id)
    assert (job["statusReason"], job["container"]["exitCode"]) == ("enough", 3)
    assert log_of(endpoint, job) == ["up", "stopping"]


def test_too_much_memory_ends_a_child(real: BatchClient) -> None:
    script = "import time; kept = bytearray(b'x') * (300 << 20); time.sleep(100)"
    job_id = submit(real, containerOverrides={"command": [sys.executable, "-c", script]})
    eventually(lambda: ended(real, job_id))
    (job,) = describe(real, job_id)
    assert job["container"]["exitCode"] == 137
    assert job["container"]["reason"] == "OutOfMemoryError: Container killed due to memory usage"
    assert job["statusReason"] == "Essential container in task exited"


def test_ten_thousand_children_touch_nothing_before_they_start(state: Path, endpoint: Endpoint) -> None:
    client = connect(endpoint)
    make_queue(client)
    define(client, vcpus="99")
    before = sum(len(files) for _, _, files in os.walk(state))
    submit(client, size=10_000)
    assert sum(len(files) for _, _, files in os.walk(state)) == before


def test_bundles_have_workers_of_their_own_and_no_bundle_shares(endpoint: Endpoint, real: BatchClient) -> None:
    """What fetch-and-run says of a bundle that is not there is enough: it was asked in the worker."""
    for digest in ("a" * 64, "b" * 64):
        pairs = [
            {"name": "BATCH_FILE_TYPE", "value": "zip"},
            {"name": "BATCH_FILE_S3_URL", "value": "file:///nowhere/bundle.zip"},
            {"name": "BATCH_FILE_SHA256", "value": digest},
        ]
        job_id = run_plain(real, containerOverrides={"environment": pairs, "command": ["x"]})
        (job,) = describe(real, job_id)
        assert job["status"] == "FAILED"
        assert job["container"]["exitCode"] not in (0, 137, 143)
        assert any("nowhere" in line for line in log_of(endpoint, job))


def test_only_loopback_is_listened_on(endpoint: Endpoint) -> None:
    own = f"{endpoint.port:04X}"
    listening = [
        line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
    ]
    assert [address for address in listening if address.endswith(own)] == [f"0100007F:{own}"]


@pytest.mark.parametrize("changed", [{"aws_secret_access_key": "wrong"}, {"aws_access_key_id": "WRONG"}])
def test_a_wrong_key_is_refused(endpoint: Endpoint, changed: dict[str, str]) -> None:
    with pytest.raises(ClientError, match="InvalidSignatureException"):
        connect(endpoint, **changed).describe_job_queues()


def ask(endpoint: Endpoint, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", endpoint.port)) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile("rb").read()


@pytest.mark.parametrize("path", ["/v1/describejobqueues", "/_calls", "/", "/_ping/../_calls"])
def test_an_unsigned_request_is_refused(endpoint: Endpoint, path: str) -> None:
    answer = ask(endpoint, f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode())
    assert answer.startswith(b"HTTP/1.1 403")


def signed(endpoint: Endpoint, body: bytes, sent: bytes | None = None) -> bytes:
    from botocore.auth import SigV4Auth
    from botocore.credentials import Credentials

    request: Any = AWSRequest("POST", f"{endpoint.url}/v1/describejobs", data=body, headers={})
    SigV4Auth(Credentials(endpoint.access_key, endpoint.secret_key), "batch", endpoint.region).add_auth(request)
    body = body if sent is None else sent
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    head += f"Host: 127.0.0.1:{endpoint.port}\r\nContent-Length: {len(body)}\r\n\r\n"
    return ask(endpoint, b"POST /v1/describejobs HTTP/1.1\r\n" + head.encode() + body)


def test_a_signature_is_for_one_body(endpoint: Endpoint) -> None:
    assert signed(endpoint, b'{"jobs": []}').startswith(b"HTTP/1.1 200")
    assert signed(endpoint, b'{"jobs": []}', b'{"jobs":[] }').startswith(b"HTTP/1.1 403")


def test_secrets_are_for_their_owner(state: Path, endpoint: Endpoint) -> None:
    assert stat.S_IMODE((state / "server.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert endpoint.secret_key not in Path(f"/proc/{endpoint.pid}/cmdline").read_text()


def test_several_callers_start_one_server(state: Path) -> None:
    found: list[Endpoint] = []
    threads = [threading.Thread(target=lambda: found.append(start(state))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 5
    assert len(set(found)) == 1


def test_a_server_whose_starter_was_killed_is_waited_for(state: Path) -> None:
    killed = (
        "import os, time; from pathlib import Path; from batch_pipeline.localbatch import client; "
        f"time.sleep = lambda _: os.kill(os.getpid(), 9); client.ensure(Path({str(state)!r}), idle_seconds=60)"
    )
    subprocess.run([sys.executable, "-c", killed], check=False)
    assert find(state) is None
    # It holds the folder by now, and does not answer yet.
    eventually((state / "batch.sqlite").exists)
    endpoint = ensure(state, idle_seconds=60)
    assert find(state) == endpoint
    assert (state / "server.log").read_text().count(" started ") == 1


def test_a_server_that_never_answers_is_not_waited_for_for_ever(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch_pipeline.localbatch.client.START_SECONDS", 0)
    state.mkdir()
    with (state / "starting").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BackendFailed, match="has not answered for 0 s"):
            ensure(state)


def test_the_server_leaves_its_starter(endpoint: Endpoint) -> None:
    assert os.getsid(endpoint.pid) == endpoint.pid
    assert os.readlink(f"/proc/{endpoint.pid}/cwd") == "/"
    assert os.readlink(f"/proc/{endpoint.pid}/fd/0") == "/dev/null"


def test_a_server_that_does_not_start_says_why(state: Path) -> None:
    state.mkdir()
    (state / "batch.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(BackendFailed, match="file is not a database"):
        ensure(state)


def test_an_idle_server_stops(state: Path) -> None:
    endpoint = start(state, idle_seconds=0.2)
    eventually(lambda: not is_running(endpoint.pid))
    assert find(state) is None


def test_a_busy_server_does_not_count_as_idle(state: Path, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    client = connect(start(state))
    make_queue(client)
    define(client, command=["sh", "-c", f"echo > {tmp_path}/began; while ! test -e {gate}; do sleep 0.1; done"])
    submit(client)
    eventually((tmp_path / "began").exists)
    stop(state)
    # It is at work from the beginning.
    endpoint = start(state, idle_seconds=1)
    time.sleep(3)
    assert is_running(endpoint.pid)
    gate.touch()
    eventually(lambda: not is_running(endpoint.pid))
    client = connect(start(state))
    (job,) = client.list_jobs(jobQueue="default", jobStatus="SUCCEEDED")["jobSummaryList"]
    assert job["container"]["exitCode"] == 0


def test_a_second_server_of_a_folder_is_refused(state: Path, endpoint: Endpoint) -> None:
    command = [sys.executable, "-m", "batch_pipeline.localbatch", "--state", str(state), "--foreground"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (done.returncode, "already serves" in done.stderr) == (3, True)
    record = read_record(state)
    assert record is not None
    assert record.endpoint == endpoint


def test_a_new_server_keeps_port_and_key(state: Path, endpoint: Endpoint) -> None:
    client = connect(endpoint)
    stop(state)
    assert not is_running(endpoint.pid), "its lock is free a moment before"
    again = start(state)
    assert (again.url, again.secret_key) == (endpoint.url, endpoint.secret_key)
    assert again.pid != endpoint.pid
    assert client.describe_job_queues()["jobQueues"] == []


def test_an_idle_server_with_other_options_is_replaced(state: Path, endpoint: Endpoint) -> None:
    assert start(state) == endpoint
    again = start(state, vcpus=3)
    assert again.pid != endpoint.pid
    client = connect(again)
    make_queue(client)
    define(client, vcpus="3", command=["sleep", "1000"])
    job_id = submit(client)
    eventually(lambda: describe(client, job_id)[0]["status"] == "RUNNING")
    assert start(state, vcpus=1) == again
    client.terminate_job(jobId=job_id, reason="enough")
    eventually(lambda: ended(client, job_id))


def test_the_command_line_starts_and_stops(state: Path) -> None:
    def command(*arguments: str) -> str:
        words = [sys.executable, "-m", "batch_pipeline.localbatch", "--state", str(state), *arguments]
        return subprocess.run(words, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]).stdout

    url = command("--vcpus", "1", "--idle-seconds", "60").strip()
    found = find(state)
    assert found is not None
    assert found.url == url
    command("--stop")
    assert find(state) is None
    assert stop(state) is False


def test_calls_can_be_read(endpoint: Endpoint, real: BatchClient) -> None:
    from botocore.auth import SigV4Auth
    from botocore.credentials import Credentials
    from botocore.httpsession import URLLib3Session

    request: Any = AWSRequest("GET", f"{endpoint.url}/_calls", headers={})
    SigV4Auth(Credentials(endpoint.access_key, endpoint.secret_key), "batch", endpoint.region).add_auth(request)
    answer = URLLib3Session().send(request.prepare())
    assert [call["operation"] for call in json.loads(answer.content)] == ["CreateJobQueue", "RegisterJobDefinition"]


def test_the_client_side_imports_neither_boto3_nor_tornado() -> None:
    heavy = {"boto3", "botocore", "tornado", "asyncio"}
    script = f"import sys, batch_pipeline.localbatch.client; print(sorted(sys.modules.keys() & {heavy}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.strip() == "[]"


def test_a_virtual_batch_answers_on_loopback_too() -> None:
    from batch_pipeline.localbatch.testing import VirtualBatch

    virtual = VirtualBatch()
    with virtual.serving() as endpoint:
        client = connect(endpoint)
        define(client)
        job_id = submit(client, size=3)
        virtual.run_until_idle()
        assert statuses(client, job_id, 3) == ["SUCCEEDED"] * 3


def test_a_lost_answer_is_a_broken_connection() -> None:
    from batch_pipeline.localbatch.api.middleware import AnswerLost
    from batch_pipeline.localbatch.testing import VirtualBatch

    class Lose:
        def before(self, request: Any) -> None:
            pass

        def after(self, request: Any, answer: Any) -> Any:
            raise AnswerLost

    virtual = VirtualBatch()
    virtual.faults = Lose()
    with virtual.serving() as endpoint:
        assert signed(endpoint, b'{"jobs": []}') == b""


def test_a_module_of_a_subfolder_is_part_of_a_servers_version(tmp_path: Path) -> None:
    module = tmp_path / "localbatch" / "engine" / "job.py"
    module.parent.mkdir(parents=True)
    module.write_text("A = 1\n")
    before = code_version(tmp_path)
    (tmp_path / "localbatch" / "engine" / "__pycache__").mkdir()
    (tmp_path / "localbatch" / "engine" / "__pycache__" / "job.py").write_text("")
    assert code_version(tmp_path) == before
    module.write_text("A = 12\n")
    assert code_version(tmp_path) != before
