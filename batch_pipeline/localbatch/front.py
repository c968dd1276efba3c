"""HTTP on 127.0.0.1: lets signed requests in and nothing else.

Besides Batch's own paths there are `/_ping?nonce=…`, which answers with a proof that needs no signature and shows
no secret, and `/_calls`, the log of API calls.
"""

from __future__ import annotations

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
from tornado.httputil import HTTPHeaders, HTTPServerRequest, ResponseStartLine

from batch_pipeline.localbatch.border import AnswerLost
from batch_pipeline.localbatch.endpoint import Endpoint
from batch_pipeline.localbatch.registry import REGION
from batch_pipeline.localbatch.service import Answer, Batch
from batch_pipeline.localbatch.signature import is_signed, proof


class Front:
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
        heard: Callable[[], None] = lambda: None,
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        self._batch = batch
        #: Held while the Batch is asked, when it is used from other threads too.
        self._lock = lock or nullcontext()
        self._heard = heard
        listener = _listen(port or (before.port if before else 0), given=bool(port))
        #: Where it answers and with which key.
        self.endpoint = Endpoint(
            url=f"http://127.0.0.1:{listener.getsockname()[1]}",
            access_key=before.access_key if before else "EMBEDDED" + secrets.token_hex(6).upper(),
            secret_key=before.secret_key if before else secrets.token_urlsafe(32),
            region=REGION,
            pid=os.getpid(),
        )
        self._http = HTTPServer(self._serve)
        self._listener = listener

    def open(self) -> None:
        """Begins to answer; until now callers wait."""
        self._http.add_sockets([self._listener])

    async def close(self) -> None:
        """Answers no more."""
        self._http.stop()
        await self._http.close_all_connections()

    def _serve(self, request: HTTPServerRequest) -> None:
        self._heard()
        connection = request.connection
        if connection is None:
            return
        try:
            answer = self._answer(request)
        except AnswerLost:
            # What remains is the end of the connection, as after a lost packet and a timeout.
            connection.finish()
            return
        headers = HTTPHeaders({**answer.headers, "Content-Length": str(len(answer.body))})
        connection.write_headers(ResponseStartLine("HTTP/1.1", answer.status, ""), headers, answer.body)
        connection.finish()

    def _answer(self, request: HTTPServerRequest) -> Answer:
        if request.path == "/_ping":
            nonce = parse_qs(request.query).get("nonce", [""])[0]
            word = "busy" if self._batch.engine.running else "idle"
            return Answer(status=200, body=proof(self.endpoint.secret_key, nonce, word).encode())
        if not self._is_ours(request):
            return _refusal("InvalidSignatureException", "The request is not signed with this server's key.")
        if request.path == "/_calls":
            return Answer(status=200, body=json.dumps([asdict(call) for call in self._batch.border.calls]).encode())
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


def _listen(port: int, *, given: bool) -> socket.socket:
    """A socket on the port, or on a free one if the port was only a wish."""
    try:
        listener = socket.create_server(("127.0.0.1", port), backlog=128)
    except OSError:
        if given:
            raise
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    listener.setblocking(False)
    return listener


def _refusal(code: str, message: str) -> Answer:
    body = json.dumps({"__type": code, "message": message}).encode()
    return Answer(status=403, body=body, headers={"x-amzn-ErrorType": code})
