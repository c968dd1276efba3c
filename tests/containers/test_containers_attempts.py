"""The embedded Batch with real containers: what an attempt gets, how it ends, and what a crash leaves."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batch_pipeline.localbatch.client import find
from batch_pipeline.localbatch.endpoint import Endpoint
from tests.containers.machine import BASE, Machine
from tests.localbatch.conftest import connect, describe, eventually, make_queue

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient

pytestmark = [pytest.mark.containers, pytest.mark.xdist_group("containers")]

Start = Callable[..., Endpoint]


def submit(client: BatchClient, *command: str, size: int = 0, memory: int = 64, **more: Any) -> str:
    """Submits a command in a container; `more` goes into the definition's containerProperties."""
    definition: dict[str, Any] = more.pop("definition", {})
    environment = [{"name": name, "value": value} for name, value in more.pop("environment", {}).items()]
    container: Any = {
        "image": BASE,
        "command": list(command),
        "environment": environment,
        "resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": str(memory)}],
        **more,
    }
    answer = client.register_job_definition(
        jobDefinitionName="tool", type="container", containerProperties=container, **definition
    )
    request: Any = {"arrayProperties": {"size": size}} if size else {}
    revision = f"tool:{answer['revision']}"
    return client.submit_job(jobName="job", jobQueue="default", jobDefinition=revision, **request)["jobId"]


def ended(client: BatchClient, job_id: str) -> dict[str, Any]:
    """The job when it has ended."""
    eventually(lambda: describe(client, job_id)[0]["status"] in ("SUCCEEDED", "FAILED"), 120)
    return describe(client, job_id)[0]


def log_of(endpoint: Endpoint, job: dict[str, Any]) -> list[str]:
    name = job["container"]["logStreamName"]
    page = connect(endpoint, "logs").get_log_events(
        logGroupName="/aws/batch/job", logStreamName=name, startFromHead=True
    )
    return [event["message"] for event in page["events"]]


def connected(endpoint: Endpoint) -> BatchClient:
    client: BatchClient = connect(endpoint, "batch")
    make_queue(client)
    return client


def pid_of(engine: Machine, name: str) -> int:
    return int(engine.podman("inspect", "--format", "{{.State.Pid}}", name))


def test_children_run_in_the_image_with_their_logs_and_exit_codes(start: Start) -> None:
    endpoint = start()
    client = connected(endpoint)
    script = '. /etc/os-release; echo "$ID $AWS_BATCH_JOB_ARRAY_INDEX"; echo oops >&2; exit $AWS_BATCH_JOB_ARRAY_INDEX'
    job_id = submit(client, "sh", "-c", script, size=3)
    ended(client, job_id)
    for index, child in enumerate(describe(client, *(f"{job_id}:{index}" for index in range(3)))):
        assert (child["container"]["exitCode"], child["status"]) == (index, "FAILED" if index else "SUCCEEDED")
        assert sorted(log_of(endpoint, child)) == [f"debian {index}", "oops"]


def test_values_of_variables_arrive_as_they_are_and_are_no_arguments(
    start: Start, engine: Machine, tmp_path: Path
) -> None:
    values = {"PLAIN": "a b", "QUOTES": '"it\'s" $HOME # `x`', "LINES": "one\ntwo", "STAR": "*", "PATH_X": "C:\\x"}
    endpoint = start()
    client = connected(endpoint)
    job_id = submit(
        client, "sh", "-c", "env -0; echo; echo up; sleep 600", environment={**values, "SECRET": "deadbeef"}
    )
    eventually(partial(is_up, endpoint, client, job_id))
    # Each of the processes that serve this container, by their arguments as all users see them.
    arguments = [words_of(path) for path in Path("/proc").glob("[0-9]*")]
    [container] = engine.containers(tmp_path / "state")
    assert any(container in words for words in arguments)
    assert not any("deadbeef" in word for words in arguments for word in words)
    client.terminate_job(jobId=job_id, reason="seen")
    job = ended(client, job_id)
    found = dict(pair.partition("=")[::2] for pair in "\n".join(log_of(endpoint, job)).split("\0"))
    assert {name: found[name] for name in values} == values
    assert "VIRTUAL_ENV" not in found
    assert found["PATH"].startswith("/usr/local/sbin")


def test_out_of_memory_is_told_in_aws_words(start: Start, machine: Machine) -> None:
    if not machine.has_limits:
        pytest.skip("THIS MACHINE'S cgroups CANNOT BE WRITTEN: no container has a limit of memory")
    client = connected(start())
    job = ended(client, submit(client, "sh", "-c", "x=$(head -c 300m /dev/zero | tr '\\0' x); echo ${#x}", memory=32))
    assert job["container"]["exitCode"] == 137
    assert job["container"]["reason"] == "OutOfMemoryError: Container killed due to memory usage"
    # A kill by somebody else is none.
    job = ended(client, submit(client, "sh", "-c", "kill -9 0", definition={"retryStrategy": {"attempts": 1}}))
    assert "reason" not in job["container"]


@pytest.mark.parametrize(
    ("image", "command", "reason"),
    [
        ("localhost/batch-pipeline/nothing:1", "true", "CannotPullContainerError: "),
        (BASE, "no-such-command", "CannotStartContainerError: "),
    ],
)
def test_a_container_that_cannot_start_says_why(start: Start, image: str, command: str, reason: str) -> None:
    client = connected(start())
    job = ended(client, submit(client, command, image=image))
    assert (job["status"], job["statusReason"]) == ("FAILED", "Task failed to start")
    assert job["attempts"][-1]["container"]["reason"].startswith(reason)
    assert "exitCode" not in job["container"]


def test_it_is_asked_to_end_and_then_made_to(start: Start, engine: Machine, tmp_path: Path) -> None:
    endpoint = start()
    client = connected(endpoint)
    polite = submit(client, "sh", "-c", "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.1; done")
    deaf = submit(client, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done")
    late = submit(client, "sleep", "600", definition={"timeout": {"attemptDurationSeconds": 2}})
    for job_id in (polite, deaf):
        eventually(partial(is_up, endpoint, client, job_id))
        client.terminate_job(jobId=job_id, reason="enough")
    job = ended(client, polite)
    assert (job["container"]["exitCode"], job["statusReason"]) == (9, "enough")
    assert log_of(endpoint, job) == ["up", "bye"]
    assert ended(client, deaf)["container"]["exitCode"] == 137
    job = ended(client, late)
    assert job["statusReason"] == "Job attempt duration exceeded timeout"
    assert not engine.containers(tmp_path / "state")


def is_up(endpoint: Endpoint, client: BatchClient, job_id: str) -> bool:
    return "up" in log_of_or_none(endpoint, client, job_id)


def log_of_or_none(endpoint: Endpoint, client: BatchClient, job_id: str) -> list[str]:
    job = describe(client, job_id)[0]
    return log_of(endpoint, job) if "logStreamName" in job["container"] else []


def test_volumes_lie_on_this_machine_or_on_the_engines_own_disk(start: Start, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "in").write_text("given\n")
    endpoint = start()
    client = connected(endpoint)
    job_id = submit(
        client,
        *("sh", "-c", "cat /data/in; ! touch /data/x 2>/dev/null && touch /scratch/made && stat -c %a /scratch"),
        user="10001",
        volumes=[
            {"name": "data", "host": {"sourcePath": str(data)}},
            {"name": "scratch", "host": {"sourcePath": "/no_such_scratch"}},
        ],
        mountPoints=[
            {"sourceVolume": "data", "containerPath": "/data", "readOnly": True},
            {"sourceVolume": "scratch", "containerPath": "/scratch"},
        ],
    )
    assert log_of(endpoint, ended(client, job_id)) == ["given", "1777"]
    assert (tmp_path / "state" / "disk" / "no_such_scratch" / "made").exists()


def test_a_folder_store_and_the_samples_folders_are_there_under_their_paths(start: Start, tmp_path: Path) -> None:
    store, samples = tmp_path / "the store", tmp_path / "samples"
    for folder in (store, samples):
        folder.mkdir(mode=0o700)
    (samples / "a").write_text("reads\n")
    endpoint = start()
    client = connected(endpoint)
    job_id = submit(
        client,
        *("sh", "-c", 'cat "$BATCH_PIPELINE_FOLDERS/a" >"$0/copy"; touch "$BATCH_PIPELINE_FOLDERS/b"', str(store)),
        environment={
            "BATCH_PIPELINE_STORE": f"file://{str(store).replace(' ', '%20')}",
            "BATCH_PIPELINE_FOLDERS": str(samples),
        },
    )
    assert ended(client, job_id)["container"]["exitCode"] == 1
    assert (store / "copy").read_text() == "reads\n"
    assert (store / "copy").stat().st_uid == os.getuid()
    assert not (samples / "b").exists()


def test_a_container_outlives_its_server_and_is_adopted(start: Start, engine: Machine, tmp_path: Path) -> None:
    endpoint = start()
    client = connected(endpoint)
    go = tmp_path / "go"
    go.mkdir()
    mounted: Any = {
        "volumes": [{"name": "go", "host": {"sourcePath": str(go)}}],
        "mountPoints": [{"sourceVolume": "go", "containerPath": "/go"}],
    }
    script = "echo begun; until [ -e /go/on ]; do sleep 0.05; done; echo done; exit 3"
    job_id = submit(client, "sh", "-c", script, **mounted)
    eventually(lambda: "begun" in log_of_or_none(endpoint, client, job_id))
    before = engine.containers(tmp_path / "state")
    kill_server(tmp_path)
    endpoint = start()
    client = connect(endpoint, "batch")
    assert describe(client, job_id)[0]["status"] == "RUNNING"
    assert engine.containers(tmp_path / "state") == before
    (go / "on").touch()
    job = ended(client, job_id)
    assert (job["container"]["exitCode"], len(job["attempts"])) == (3, 1)
    assert log_of(endpoint, job) == ["begun", "done"]


def test_a_container_without_a_worker_is_ended_before_its_child_is_tried_again(
    start: Start, engine: Machine, tmp_path: Path
) -> None:
    endpoint = start()
    client = connected(endpoint)
    seen = tmp_path / "seen"
    seen.mkdir()
    mounted: Any = {
        "volumes": [{"name": "seen", "host": {"sourcePath": str(seen)}}],
        "mountPoints": [{"sourceVolume": "seen", "containerPath": "/seen"}],
    }
    # Whoever finds another one in its place says so: two at once would.
    script = (
        "mkdir /seen/running || touch /seen/twice; touch /seen/$AWS_BATCH_JOB_ATTEMPT; "
        "[ $AWS_BATCH_JOB_ATTEMPT = 2 ] && exit 0; sleep 600"
    )
    job_id = submit(client, "sh", "-c", script, definition={"retryStrategy": {"attempts": 2}}, **mounted)
    eventually((seen / "1").exists)
    [container] = engine.containers(tmp_path / "state")
    pid = pid_of(engine, container)
    workers = [int(path.name) for path in Path("/proc").glob("[0-9]*") if is_worker_of(path, tmp_path)]
    assert workers
    kill_server(tmp_path)
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    assert Path(f"/proc/{pid}").exists()
    (seen / "running").rmdir()
    client = connect(start(), "batch")
    job = ended(client, job_id)
    assert [attempt["container"].get("exitCode") for attempt in job["attempts"]] == [None, 0]
    assert job["attempts"][0]["statusReason"].startswith("Host EC2")
    assert not Path(f"/proc/{pid}").exists()
    assert not (seen / "twice").exists()


def words_of(process: Path) -> list[str]:
    """The arguments of a process, by its folder in /proc."""
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_worker_of(process: Path, folder: Path) -> bool:
    words = words_of(process)
    return "batch_pipeline.localbatch.worker" in words and any(word.startswith(str(folder)) for word in words)


def kill_server(folder: Path) -> None:
    endpoint = find(folder / "state")
    assert endpoint
    os.kill(endpoint.pid, signal.SIGKILL)
    eventually(lambda: find(folder / "state") is None)
