"""What a server did, told from its log alone."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batch_pipeline.localbatch.api.middleware import AnswerLost
from batch_pipeline.localbatch.api.model import ApiError, ApiRequest
from batch_pipeline.localbatch.testing import VirtualBatch
from tests.localbatch.conftest import (
    connect,
    define,
    describe,
    eventually,
    is_running,
    make_queue,
    refusal,
    start,
    submit,
)

if TYPE_CHECKING:
    from mypy_boto3_batch import BatchClient

Document = dict[str, Any]
LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]{12}Z (?:INFO   |WARNING) - (localbatch\.[\w.]+): (.+)")


def events(lines: list[str]) -> list[str]:
    """The lines without time, logger and the ids of jobs."""
    matches = [LINE.fullmatch(line) for line in lines]
    assert all(matches)
    return [re.sub(r"job=[0-9a-f-]{36}", "job=J", match[2]) for match in matches if match]


@pytest.mark.slow
def test_the_log_of_a_server_tells_what_became_of_each_attempt(state: Path) -> None:
    endpoint = start(state, idle_seconds=2)
    client: BatchClient = connect(endpoint)
    make_queue(client)
    script = "exit $AWS_BATCH_JOB_ARRAY_INDEX"
    define(client, command=["sh", "-c", script], environment=[{"name": "API_KEY", "value": "hidden-in-jobs"}])
    job = submit(client, size=2)
    eventually(lambda: describe(client, job)[0]["status"] == "FAILED")
    eventually(lambda: not is_running(endpoint.pid))
    text = (state / "server.log").read_text()
    lines = events(text.splitlines())
    assert [line.split(" ", 1)[0] for line in (*lines[:2], lines[-1])] == ["started", "recovered", "stopping"]
    assert "submitted job=J name=job queue=default size=2" in " ".join(lines)
    for index in range(2):
        assert f"attempt started job=J:{index} attempt=1 state=RUNNING" in lines
    assert "attempt ended job=J:0 attempt=1 state=SUCCEEDED exit_code=0" in lines
    assert "attempt ended job=J:1 attempt=1 state=FAILED exit_code=1" in lines
    assert 'job changed job=J state=FAILED succeeded=1 failed=1 reason="Array Child Job failed"' in lines
    assert lines[-1] == "stopping reason=idle running=0"
    for secret in (endpoint.secret_key, endpoint.access_key, "hidden-in-jobs"):
        assert secret not in text


def test_faults_refusals_and_cancelling_are_logged(
    batch: VirtualBatch, client: BatchClient, caplog: pytest.LogCaptureFixture
) -> None:
    class Throttle:
        left = 1

        def before(self, request: ApiRequest) -> None:
            if self.left and request.operation == "DescribeJobs":
                self.left -= 1
                raise ApiError("Too many.", code="TooManyRequestsException", status=429)

        def after(self, request: ApiRequest, answer: Document) -> Document:
            if request.operation == "ListJobs":
                raise AnswerLost
            return answer

    caplog.set_level(logging.INFO, "batch_pipeline.localbatch")
    job = submit(client)
    refusal(lambda: submit(client, jobQueue="none"))
    batch.faults = Throttle()
    describe(client, job)
    client.terminate_job(jobId=job, reason="wrong samples")
    batch.advance(60)
    messages = [re.sub(r"job=\S{36}", "job=J", record.getMessage()) for record in caplog.records]
    expected = [
        'submitted job=J name=job queue=default size=0 run=""',
        "job changed job=J state=RUNNING running=1",
        'refused path=/v1/submitjob code=ClientException message="Error executing request, Exception : JobQueue none '
        'does not exist."',
        "fault injected operation=DescribeJobs error=\"ApiError('Too many.')\"",
        'cancelled job=J terminate=True reason="wrong samples"',
        'attempt stopped job=J attempt=1 state=RUNNING reason="wrong samples"',
        'attempt ended job=J attempt=1 state=FAILED exit_code=143 reason="wrong samples"',
    ]
    assert [message for message in expected if message not in messages] == []


def test_a_virtual_batch_adds_nothing_to_the_log_of_its_process(
    client: BatchClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "batch_pipeline")
    submit(client)
    assert not caplog.records


def test_a_long_log_is_put_aside_when_the_next_server_starts(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch_pipeline.localbatch.client._LOG_BYTES", 10)
    state.mkdir(mode=0o700)
    (state / "server.log").write_text("of the server before\n")
    start(state)
    assert (state / "server.log.1").read_text() == "of the server before\n"
    assert "before" not in (state / "server.log").read_text()
