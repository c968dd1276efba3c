"""HTTP on 127.0.0.1: lets signed requests in and nothing else.

Besides Batch's own paths there are `/_ping?nonce=…`, which answers with a proof that needs no signature and shows
no secret, `/_calls`, the log of API calls, and where an identity is lent `/_identity`, which takes it from a client,
and `/_credentials`, where attempts ask for keys.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from urllib.parse import parse_qs

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPConnection, HTTPHeaders, HTTPServerRequest, ResponseStartLine

from batch_pipeline.localbatch.api.identity import PATH, AwsIdentity
from batch_pipeline.localbatch.api.middleware import AnswerLost
from batch_pipeline.localbatch.api.registry import REGION
from batch_pipeline.localbatch.api.signature import is_signed
from batch_pipeline.localbatch.endpoint import Endpoint, proof
from batch_pipeline.localbatch.service import Batch, HttpResponse
from batch_pipeline.wire.errors import BackendFailed

_HEADER_BYTES = 1 << 20


class HttpFrontend:
    """Serves a `Batch` over HTTP, on the event loop of the thread that makes it.

    With `before`, the endpoint of an earlier server of the same state, the key stays and if possible the port: clients
    that know it go on.
    """

    def __init__(
        self,
        batch: Batch,
        *,
        port: int = 0,
        before: Endpoint | None = None,
        on_request: Callable[[], None] = lambda: None,
        lock: AbstractContextManager[object] | None = None,
        identity: AwsIdentity | None = None,
    ) -> None:
        self._batch = batch
        self._identity = identity
        self._lending: set[asyncio.Task[None]] = set()
        #: Held while a request is answered, when it is used from other threads too.
        self._lock = lock or nullcontext()
        self._on_request = on_request
        listener = _listen(port or (before.port if before else 0), required=bool(port))
        #: Where it answers and with which key.
        self.endpoint = Endpoint(
            url=f"http://127.0.0.1:{listener.getsockname()[1]}",
            access_key=before.access_key if before else "EMBEDDED" + secrets.token_hex(6).upper(),
            secret_key=before.secret_key if before else secrets.token_urlsafe(32),
            region=REGION,
            pid=os.getpid(),
        )
        # A toolchain's search paths may be long.
        self._http = HTTPServer(self._serve, max_header_size=_HEADER_BYTES)
        self._listener = listener

    def open(self) -> None:
        """Begins to answer; until now callers wait."""
        self._http.add_sockets([self._listener])

    async def close(self) -> None:
        """Answers no more."""
        self._http.stop()
        await self._http.close_all_connections()

    def _serve(self, request: HTTPServerRequest) -> None:
        self._on_request()
        connection = request.connection
        if connection is None:
            return
        if self._identity is not None and request.path == PATH:
            # The chain of credentials may ask a server far away: everybody else is answered meanwhile.
            task = asyncio.get_running_loop().create_task(self._lend(request, connection, self._identity))
            self._lending.add(task)
            task.add_done_callback(self._lending.discard)
            return
        try:
            answer = self._answer(request)
        except AnswerLost:
            # What remains is the end of the connection, as after a lost packet and a timeout.
            connection.finish()
            return
        _write(connection, answer)

    async def _lend(self, request: HTTPServerRequest, connection: HTTPConnection, identity: AwsIdentity) -> None:
        if not identity.knows(request.headers.get("Authorization", "")):
            _write(connection, _refusal("AccessDenied", "The token is not this server's."))
            return
        try:
            keys = await asyncio.get_running_loop().run_in_executor(None, identity.credentials)
        except BackendFailed as error:
            _write(connection, _refusal("NoCredentials", error.message))
            return
        _write(connection, HttpResponse(status=200, body=json.dumps(keys).encode()))

    def _answer(self, request: HTTPServerRequest) -> HttpResponse:
        if self._identity is not None and request.path == "/_identity":
            nonce = f"{request.headers.get('X-Nonce', '')} {hashlib.sha256(request.body).hexdigest()}"
            expected = proof(self.endpoint.secret_key, nonce, "lend")
            if not hmac.compare_digest(request.headers.get("X-Proof", "").encode(), expected.encode()):
                return _refusal("InvalidSignatureException", "The request is not signed with this server's key.")
            self._identity.assume(json.loads(request.body))
            return HttpResponse(status=200, body=b"")
        if request.path == "/_ping":
            nonce = parse_qs(request.query).get("nonce", [""])[0]
            word = "busy" if self._batch.engine.running else "idle"
            return HttpResponse(status=200, body=proof(self.endpoint.secret_key, nonce, word).encode())
        if not self._is_ours(request):
            return _refusal("InvalidSignatureException", "The request is not signed with this server's key.")
        if request.path == "/_calls":
            return HttpResponse(
                status=200, body=json.dumps([asdict(call) for call in self._batch.middleware.calls]).encode()
            )
        with self._lock:
            return self._batch.answer(request.method or "", request.uri or "", request.headers, request.body)

    def _is_ours(self, request: HTTPServerRequest) -> bool:
        return is_signed(
            method=request.method or "",
            path=request.path,
            query=request.query,
            headers=request.headers,
            body=request.body,
            access_key=self.endpoint.access_key,
            secret_key=self.endpoint.secret_key,
            now=datetime.now(UTC),
        )


def _listen(port: int, *, required: bool) -> socket.socket:
    """A socket on the port, or on a free one if the port was only a wish."""
    try:
        listener = socket.create_server(("127.0.0.1", port), backlog=128)
    except OSError:
        if required:
            raise
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    listener.setblocking(False)
    return listener


def _write(connection: HTTPConnection, answer: HttpResponse) -> None:
    headers = HTTPHeaders({**answer.headers, "Content-Length": str(len(answer.body))})
    connection.write_headers(ResponseStartLine("HTTP/1.1", answer.status, ""), headers, answer.body)
    connection.finish()


def _refusal(code: str, message: str) -> HttpResponse:
    body = json.dumps({"__type": code, "message": message}).encode()
    return HttpResponse(status=403, body=body, headers={"x-amzn-ErrorType": code})
