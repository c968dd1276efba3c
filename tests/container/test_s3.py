"""A cell whose store is S3, as the life's own environment says how to reach it."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

import pytest

from batch_pipeline.container.logger import without_log_lines
from batch_pipeline.wire.store import Store, open_store

if TYPE_CHECKING:
    from tests.container.conftest import Workshop


class Bucket(BaseHTTPRequestHandler):
    """As much of S3's REST API as a cell uses, objects in memory."""

    objects: dict[str, bytes]
    seen: list[str]
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.note()
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            return self.answer(200, self.listing(query.get("prefix", [""])[0]))
        if self.key not in self.objects:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        data = self.objects[self.key]
        asked = self.headers.get("Range")
        if asked is None:
            return self.answer(200, data)
        start, end = (int(part) for part in asked.removeprefix("bytes=").split("-"))
        part = data[start : end + 1]
        span = f"bytes {start}-{start + len(part) - 1}/{len(data)}"
        return self.answer(206, part, {"Content-Range": span})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.note()
        self.objects[self.key] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, b"")

    def do_POST(self) -> None:
        self.note()
        body = ElementTree.fromstring(self.rfile.read(int(self.headers["Content-Length"])))
        for element in body.iter():
            if element.tag.endswith("Key"):
                self.objects.pop(str(element.text), None)
        self.answer(200, b"<DeleteResult></DeleteResult>")

    @property
    def key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix("/bucket/")

    def note(self) -> None:
        self.seen.append(self.headers.get("Authorization", ""))

    def listing(self, prefix: str) -> bytes:
        entries = "".join(
            f"<Contents><Key>{key}</Key><Size>{len(data)}</Size><ETag>x</ETag>"
            "<LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
            for key, data in self.objects.items()
            if key.startswith(prefix)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()

    def answer(self, code: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        etag = f'"{hash(self.objects.get(self.key)) & 0xFFFFFFFF:x}"'
        common = {"ETag": etag, "Content-Length": str(len(data)), "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        for name, value in {**common, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@pytest.fixture
def bucket() -> Iterator[ThreadingHTTPServer]:
    handler = type("OneBucket", (Bucket,), {"objects": {}, "seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def access(server: ThreadingHTTPServer) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_address[1]}",
        "AWS_ACCESS_KEY_ID": f"KEY{uuid.uuid4().hex[:8]}",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "eu-west-1",
    }


def test_a_cell_lives_on_s3(
    bucket: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_workshop: Workshop
) -> None:
    mine = access(bucket)
    with monkeypatch.context() as patch:
        for name, value in mine.items():
            patch.setenv(name, value)
        store: Store = open_store("s3://bucket/some/prefix")
        memory_workshop.store = store
        reference = memory_workshop.reference("ref", "references/g/r.txt", b"R")
        environment = memory_workshop.script(
            '#!/bin/sh\ncat "$INPUT_X" "$REFERENCE_REF" > y\necho done\n', references=(reference,)
        )
    before = dict(os.environ)
    theirs = access(bucket)
    assert memory_workshop.live({**environment, **theirs}) == 0, memory_workshop.log
    assert before == dict(os.environ)
    handler: type[Bucket] = bucket.RequestHandlerClass  # type: ignore[assignment]
    assert handler.objects["some/prefix/results/copy/s1/y"] == b"data\nR"
    assert without_log_lines(handler.objects["some/prefix/logs/R/copy/s1/1.log"]) == b"done\n"
    receipt = json.loads(handler.objects["some/prefix/receipts/copy/s1/ffffffffffffffff.json"])
    assert receipt["outcome"] == "succeeded"
    assert any(theirs["AWS_ACCESS_KEY_ID"] in line for line in handler.seen)
    # Another life with other keys does not use this one's connection.
    others = {**access(bucket), "AWS_BATCH_JOB_ATTEMPT": "2"}
    assert memory_workshop.live({**environment, **others}) == 0
    assert others["AWS_ACCESS_KEY_ID"] in handler.seen[-1]


def test_fetch_and_run_from_s3(bucket: ThreadingHTTPServer, memory_workshop: Workshop) -> None:
    handler: type[Bucket] = bucket.RequestHandlerClass  # type: ignore[assignment]
    handler.objects["code/run it.sh"] = b'#!/bin/sh\necho "got $1"\n'
    environment = {
        **access(bucket),
        "PATH": os.environ["PATH"],
        "BATCH_FILE_TYPE": "script",
        "BATCH_FILE_S3_URL": "s3://bucket/code/run%20it.sh",
        "BATCH_PIPELINE_SCRATCH": str(memory_workshop.scratch),
    }
    assert memory_workshop.live(environment, "name", "it") == 0, memory_workshop.log
    assert memory_workshop.log == b"got it\n"
