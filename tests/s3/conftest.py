"""A real S3 server on loopback (moto's, in a thread of the test) that remembers its requests; one that plays errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest
from werkzeug.serving import WSGIRequestHandler, make_server

from batch_pipeline.wire.s3 import S3Access

REGION = "eu-west-1"
BUCKET = "lab"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request as the server received it."""

    method: str
    path: str
    query: str
    #: Lower-case names.
    headers: Mapping[str, str]

    @property
    def key_id(self) -> str:
        """The access key that signed it."""
        return self.headers.get("authorization", "").partition("Credential=")[2].partition("/")[0]


@dataclass(kw_only=True)
class Service:
    """An S3 server with one bucket."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    #: Listings that are to be answered by 503 SlowDown.
    slow_downs: int = 0

    def client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id="admin",
            aws_secret_access_key="admin",
        )

    def keys(self) -> list[str]:
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    def read(self, key: str) -> bytes:
        body: bytes = self.client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return body

    def writes(self) -> list[Asked]:
        """Requests that make an object."""
        return [
            one
            for one in self.asked
            if one.path.count("/") > 1 and (one.method == "PUT" or (one.method == "POST" and one.query == "uploads="))
        ]


class _Quiet(WSGIRequestHandler):
    # One answer, one packet: two would wait for each other some 40 ms.
    wbufsize = -1

    def log(self, type: str, message: str, *args: Any) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    from moto.moto_api._internal.models import moto_api_backend
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    moto_api_backend.reset()
    app = DomainDispatcherApplication(create_backend_app)
    made = Service(url="")
    lock = threading.Lock()

    def remembering(environ: dict[str, Any], start: Any) -> Any:
        headers = {name[5:].lower().replace("_", "-"): text for name, text in environ.items() if name[:5] == "HTTP_"}
        with lock:
            made.asked.append(
                Asked(
                    method=environ["REQUEST_METHOD"],
                    path=environ["PATH_INFO"],
                    query=environ["QUERY_STRING"],
                    headers=headers,
                )
            )
            is_busy = made.slow_downs > 0 and "list-type" in environ["QUERY_STRING"]
            made.slow_downs -= is_busy
        if is_busy:
            start("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]
        return app(environ, start)

    server = make_server("127.0.0.1", 0, remembering, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    made.client().create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    made.asked.clear()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


#: Status, error code or body, headers.
Answer = tuple[int, str, Mapping[str, str]]


@dataclass(kw_only=True)
class Actor:
    """An S3 server that gives the answers it was told to, and then 200."""

    url: str
    answers: list[Answer] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def will(self, status: int, code: str = "", **headers: str) -> None:
        self.answers.append((status, code, headers))

    def reach(self) -> S3Access:
        def lend() -> dict[str, Any]:
            return {"access_key_id": "k", "secret_access_key": "s", "token": None, "expires_at": None}

        return S3Access(endpoint=self.url, region=REGION, credentials=lend)


class _Stage(BaseHTTPRequestHandler):
    actor: Actor
    wbufsize = -1

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def play(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.actor.asked.append(self.command)
        status, text, headers = self.actor.answers.pop(0) if self.actor.answers else (200, "", {})
        body = text.encode()
        if text and not text.startswith("<") and status >= 300:
            body = f"<Error><Code>{text}</Code><Message>words of {text}</Message></Error>".encode()
        self.send_response(status)
        common = {"ETag": '"e"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "Content-Length": str(len(body))}
        for name, value in {**common, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = play


@pytest.fixture
def actor() -> Iterator[Actor]:
    made = Actor(url="")
    handler: Callable[..., BaseHTTPRequestHandler] = type("Stage", (_Stage,), {"actor": made})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()
