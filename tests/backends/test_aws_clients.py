from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest
import stamina
from botocore.exceptions import ClientError
from botocore.loaders import JSONFileLoader

from batch_pipeline.backends import create
from batch_pipeline.backends.aws_errors import CallOutcome, classify_error, error_text, translated
from batch_pipeline.backends.base import Backend, JobRequest, JobState
from batch_pipeline.config import Settings, load_settings
from batch_pipeline.records.record_writing import toolchain_of
from batch_pipeline.wire.errors import BackendFailed, InvalidConfig, SubmissionUnknown


def _client_error(code: str, status: int, message: str = "") -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "SubmitJob")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (_client_error("ClientException", 400), CallOutcome.REFUSED),
        (_client_error("AccessDeniedException", 403), CallOutcome.REFUSED),
        (_client_error("ExpiredTokenException", 403), CallOutcome.REFUSED),
        (_client_error("TooManyRequestsException", 429), CallOutcome.THROTTLED),
        (_client_error("ThrottlingException", 400), CallOutcome.THROTTLED),
        (_client_error("429", 429), CallOutcome.THROTTLED),
        (_client_error("RequestTimeout", 408), CallOutcome.UNKNOWN),
        (_client_error("ServerException", 500), CallOutcome.UNKNOWN),
        (_client_error("", 503), CallOutcome.UNKNOWN),
        (botocore.exceptions.EndpointConnectionError(endpoint_url="u", error="e"), CallOutcome.UNSENT),
        (botocore.exceptions.ConnectTimeoutError(endpoint_url="u", error="e"), CallOutcome.UNSENT),
        (botocore.exceptions.ReadTimeoutError(endpoint_url="u", error="e"), CallOutcome.UNKNOWN),
        (botocore.exceptions.ConnectionClosedError(endpoint_url="u", error="e"), CallOutcome.UNKNOWN),
        (botocore.exceptions.HTTPClientError(error="e"), CallOutcome.UNKNOWN),
        (botocore.exceptions.SSLError(endpoint_url="u", error=OSError("e")), CallOutcome.MISCONFIGURED),
        (botocore.exceptions.NoCredentialsError(), CallOutcome.MISCONFIGURED),
        (botocore.exceptions.NoRegionError(), CallOutcome.MISCONFIGURED),
        (botocore.exceptions.ProfileNotFound(profile="p"), CallOutcome.MISCONFIGURED),
        (botocore.exceptions.SSOTokenLoadError(error_msg="e"), CallOutcome.MISCONFIGURED),
        (botocore.exceptions.ParamValidationError(report="r"), CallOutcome.REFUSED),
    ],
)
def test_the_fate_of_a_call(error: Exception, expected: CallOutcome) -> None:
    assert classify_error(error) is expected


def test_every_kind_in_the_table_is_one_of_botocores() -> None:
    from batch_pipeline.backends.aws_errors import _OUTCOMES

    assert all(hasattr(botocore.exceptions, name) for name in _OUTCOMES)


def test_words_are_one_line() -> None:
    assert error_text(_client_error("ClientException", 400, "a\n  b.")) == "ClientException: a b"


def test_a_missing_region_is_the_users_to_set() -> None:
    error = translated("list_jobs", botocore.exceptions.NoRegionError())
    assert isinstance(error, InvalidConfig)
    assert "aws.region" in error.message


# Against servers on loopback: nothing is scripted between us and the socket.


class Server:
    """An HTTP server that answers each request by a function of its path and body."""

    def __init__(self, answer: Callable[[str, dict[str, Any]], tuple[int, dict[str, Any]]]) -> None:
        self.requests: list[str] = []
        self.texts: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"] or 0))
                outer.requests.append(self.path)
                outer.texts.append(f"{self.headers}{body.decode()}")
                status, document = answer(self.path, json.loads(body or b"{}"))
                data = json.dumps(document).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass  # The client has given up: that is what some tests are about.

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def count(self, path: str) -> int:
        return self.requests.count(path)


@pytest.fixture
def aws_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Settings]:
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    def make(**flags: str) -> Settings:
        given = {"backend.name": "aws", "aws.region": "us-east-1"}
        return load_settings(
            given | {f"aws.{name}": value for name, value in flags.items()}, environ={}, folder=tmp_path
        )

    return make


class SlowBatch:
    """Takes every job at once; the first answer to SubmitJob comes when `release` is set."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.jobs: list[str] = []

    def answer(self, path: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path == "/v1/submitjob":
            self.jobs.append(asked["jobName"])
            self.release.wait(30)
            return 200, {"jobName": asked["jobName"], "jobId": f"id-{len(self.jobs)}"}
        if path == "/v1/listjobs":
            found = [{"jobId": f"id-{i}", "jobName": name} for i, name in enumerate(self.jobs, 1)]
            return 200, {"jobSummaryList": found[::-1]}
        names = [name.split(":")[0] for name in asked["jobDefinitions"]]
        shown = [{"jobDefinitionName": name, "revision": 1, "status": "ACTIVE"} for name in names]
        return 200, {"jobDefinitions": shown}


@pytest.fixture
def slow() -> Iterator[tuple[SlowBatch, Server]]:
    batch = SlowBatch()
    server = Server(batch.answer)
    yield batch, server
    batch.release.set()
    server.stop()


@pytest.mark.engine
def test_a_submission_that_takes_effect_and_times_out_is_sent_once_and_found(
    slow: tuple[SlowBatch, Server],
    job: JobRequest,
    aws_settings: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("batch_pipeline.backends.aws_clients.SUBMIT_TIMEOUT_SECONDS", 0.2)
    batch, server = slow
    backend = create(aws_settings(endpoint=server.url))
    with pytest.raises(SubmissionUnknown, match="It is not known whether job job was queued"):
        backend.submit(job)
    assert server.count("/v1/submitjob") == 1
    assert backend.find("job", "mixed") == "id-1"
    assert batch.jobs == ["job"]
    backend.close()


@pytest.mark.engine
def test_a_job_on_aws_gets_nothing_of_the_commands_toolchain(
    slow: tuple[SlowBatch, Server],
    job: JobRequest,
    aws_settings: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", f"/my/tools:{os.environ['PATH']}")
    batch, server = slow
    batch.release.set()
    settings = aws_settings(endpoint=server.url)
    backend = create(settings)
    backend.submit(job)
    backend.close()
    assert server.count("/v1/submitjob") == 1
    assert not [text for text in server.texts if "toolchain" in text.lower() or "/my/tools" in text]
    assert toolchain_of(settings) == {}


@pytest.mark.engine
def test_a_connection_that_breaks_after_sending_leaves_doubt(
    job: JobRequest, aws_settings: Callable[..., Settings]
) -> None:
    """The server reads SubmitJob and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))
    names = {
        "jobDefinitions": [
            {"jobDefinitionName": job.definition["jobDefinitionName"], "revision": 1, "status": "ACTIVE"}
        ]
    }
    taken: list[bytes] = []

    def serve() -> None:
        while len(taken) < 2:
            connection, _ = listener.accept()
            with connection:
                head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
                length = next(
                    int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
                )
                while len(body) < length:
                    body += connection.recv(65536)
                taken.append(head.split(b" ")[1])
                if taken[-1] != b"/v1/submitjob":
                    data = json.dumps(names).encode()
                    connection.sendall(
                        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(data) + data
                    )

    thread = threading.Thread(target=serve)
    thread.start()
    backend = create(aws_settings(endpoint=f"http://127.0.0.1:{listener.getsockname()[1]}"))
    with pytest.raises(SubmissionUnknown):
        backend.submit(job)
    thread.join()
    listener.close()
    backend.close()
    assert taken == [b"/v1/describejobdefinitions", b"/v1/submitjob"]


@pytest.mark.engine
def test_a_server_that_is_not_there_queued_nothing(
    job: JobRequest, aws_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda seconds: None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    backend = create(aws_settings(endpoint=f"http://127.0.0.1:{port}"))
    with stamina.set_testing(True, attempts=3), pytest.raises(BackendFailed, match="Check the network") as raised:
        backend.submit(job)
    assert raised.value.transient
    assert not isinstance(raised.value, SubmissionUnknown)


@pytest.mark.parametrize(
    ("flags", "error", "sentence"),
    [
        ({"region": ""}, InvalidConfig, "aws.region"),
        ({"profile": "nobody"}, InvalidConfig, "nobody"),
    ],
)
def test_wrong_settings_are_told_before_anything_is_sent(
    flags: dict[str, str], error: type[Exception], sentence: str, aws_settings: Callable[..., Settings]
) -> None:
    backend: Backend = create(aws_settings(**flags))
    with pytest.raises(error, match=sentence):
        backend.summaries(["a"])


def test_missing_credentials_are_told(
    aws_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(BackendFailed, match="aws configure"):
        create(aws_settings()).summaries(["a"])


def test_a_client_of_a_known_endpoint_does_not_look_through_the_services_of_aws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from batch_pipeline.backends.aws_clients import _bare_session

    read: list[str] = []
    load = JSONFileLoader.load_file

    def noted(self: JSONFileLoader, path: str) -> Any:
        read.append(path)
        return load(self, path)

    monkeypatch.setattr(JSONFileLoader, "load_file", noted)
    _bare_session.cache_clear()
    keys: Any = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    for service in ("batch", "logs"):
        client = _bare_session().create_client(service, endpoint_url="http://127.0.0.1:1", **keys)
        assert client.meta.endpoint_url == "http://127.0.0.1:1"
    folders = {Path(path).parent.parent.name for path in read if path.endswith(("-1", "-2"))}
    assert folders == {"batch", "logs"}
    assert not [path for path in read if Path(path).name == "endpoints"]


@pytest.mark.engine
def test_the_embedded_batch_is_started_again_when_it_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's AWS profile and proxies are none of its business."""
    from batch_pipeline.localbatch.client import stop

    monkeypatch.setenv("AWS_PROFILE", "nobody")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    backend = create(load_settings({"embedded.state": str(tmp_path / "batch")}, environ={}, folder=tmp_path))
    try:
        assert backend.summaries(["x"])["x"].state is JobState.UNKNOWN
        assert stop(tmp_path / "batch")
        assert backend.summaries(["x"])["x"].state is JobState.UNKNOWN
    finally:
        backend.close()
        stop(tmp_path / "batch")


@pytest.mark.engine
def test_a_job_is_taken_by_an_embedded_batch_that_had_to_be_started_again(tmp_path: Path, job: JobRequest) -> None:
    from batch_pipeline.localbatch.client import stop

    state = tmp_path / "batch"
    backend = create(load_settings({"embedded.state": str(state)}, environ={}, folder=tmp_path))
    try:
        first = backend.submit(replace(job, command=("true",)))
        assert stop(state)
        with stamina.set_testing(True, attempts=3):
            second = backend.submit(replace(job, name="second", command=("true",)))
        jobs = backend.summaries([first, second])
        assert [made.name for made in jobs.values()] == ["job", "second"]
    finally:
        backend.close()
        stop(state)


@pytest.mark.parametrize("status", [200, 302, 403])
def test_a_web_page_in_place_of_aws_batch_is_told(
    page: Callable[[int], str], status: int, job: JobRequest, aws_settings: Callable[..., Settings]
) -> None:
    """A sign-in page of a network, or another server's port."""
    backend = create(aws_settings(endpoint=page(status)))
    for call in (lambda: backend.summaries(["a"]), lambda: backend.find("a", "q")):
        with pytest.raises(
            BackendFailed, match=r"answers with a web page, 'Welcome to the airport'.*Check aws\.endpoint"
        ):
            call()
    with pytest.raises(BackendFailed, match="answers with a web page"):
        backend.submit(job)
    backend.close()
