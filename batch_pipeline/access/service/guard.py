"""ASGI middleware: request id, rate and body limits, security headers, audit log.

It is the outermost layer, so that an answer to a defect has the same headers. No answer goes out that could not be
written to the audit log.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batch_pipeline.access.service.answers import TooOften, answer_to, error_answer
from batch_pipeline.access.service.audit import AuditLog
from batch_pipeline.access.service.limits import Limiter
from batch_pipeline.log import Facts
from batch_pipeline.wire.errors import StoreFailed

_LOG: Final = logging.getLogger(__name__)

#: A request's arguments and configuration may have 256 KiB each (`access.names`).
MOST_BODY_BYTES: Final = 1 << 20
_BODY_SECONDS: Final = 30
_SAFE: Final = ("GET", "HEAD", "OPTIONS")
#: Where nothing is told that needs an audit.
_PUBLIC: Final = ("/health", "/openapi.json", "/_/style.css")
#: Pages of ours: no script, nothing from elsewhere.
_PAGES: Final = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'"
)
_HEADERS: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Content-Security-Policy": _PAGES,
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What the guard needs."""

    audit: AuditLog
    addresses: Limiter
    #: Names by which the service may be called; empty: any. For a service that authenticates no user, or a page from
    #: elsewhere could reach it under a name of its own.
    hosts: frozenset[str] = field(default=frozenset())


class RequestGuard:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp, config: GuardConfig) -> None:
        self._app = app
        self._config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See https://asgi.readthedocs.io/en/latest/specs/www.html."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = uuid.uuid4().hex
        outgoing = _Outgoing(scope, send, self._config.audit)
        refused = self._refused(scope)
        if refused is not None:
            await refused(scope, receive, outgoing)
            return
        if scope["method"] not in _SAFE:
            body = await _whole_body(scope, receive)
            if body is None:
                sentence = (
                    f"A request has at most {MOST_BODY_BYTES >> 20} MiB, and comes within {_BODY_SECONDS} seconds."
                )
                await error_answer(413, sentence, state["request_id"])(scope, receive, outgoing)
                return
            receive = _replayed(body, receive)
        await self._app(scope, receive, outgoing)

    def _refused(self, scope: Scope) -> ASGIApp | None:
        request_id, headers = scope["state"]["request_id"], Headers(scope=scope)
        if seconds := self._config.addresses.wait(_address(scope)):
            _LOG.info("throttled %s", Facts(request=request_id, address=_address(scope), seconds=round(seconds, 1)))
            return answer_to(TooOften(seconds), request_id)
        if self._config.hosts and _called(headers.get("host", "")) not in self._config.hosts:
            return error_answer(400, "The service is not called by this name. Use 127.0.0.1.", request_id)
        # A browser says from where a request comes; those of a page from elsewhere act in no user's name here.
        if scope["method"] not in _SAFE and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return error_answer(403, "Pages from elsewhere may not start anything here.", request_id)
        return None


class _Outgoing:
    """Sends an answer with the headers of all, once it is in the audit log."""

    def __init__(self, scope: Scope, send: Send, audit: AuditLog) -> None:
        self._scope = scope
        self._send = send
        self._audit = audit
        self._silent = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            try:
                await run_in_threadpool(self._write_down, message["status"])
            except StoreFailed as error:
                await self._instead(error)
            else:
                self._add_headers(message)
                await self._send(message)
        elif not self._silent:
            await self._send(message)

    def _write_down(self, status: int) -> None:
        if self._scope["path"] in _PUBLIC and status < 400:
            return
        decision = "allowed" if status < 400 else "refused" if status < 500 else "failed"
        state, path = self._scope["state"], self._scope["path"]
        about = {"address": _address(self._scope), "method": self._scope["method"], "path": path, "status": status}
        self._audit.write(event="answered", **about, decision=decision, **state)
        more = {"request": state["request_id"], "user": state.get("user", ""), "run": state.get("run_id", "")}
        _LOG.info("answered %s", Facts(**about, decision=decision, **more))

    async def _instead(self, error: StoreFailed) -> None:
        self._silent = True
        _LOG.error("Request %s is not answered: %s", self._scope["state"]["request_id"], error.message)
        response = answer_to(error, self._scope["state"]["request_id"])
        start: Message = {"type": "http.response.start", "status": response.status_code, "headers": []}
        start["headers"] = list(response.raw_headers)
        self._add_headers(start)
        await self._send(start)
        await self._send({"type": "http.response.body", "body": response.body, "more_body": False})

    def _add_headers(self, message: Message) -> None:
        headers = MutableHeaders(scope=message)
        headers["X-Request-Id"] = self._scope["state"]["request_id"]
        headers.add_vary_header("Accept, Authorization")
        for name, value in _HEADERS.items():
            headers.setdefault(name, value)


async def _whole_body(scope: Scope, receive: Receive) -> bytes | None:
    """The body; None when it is too large or too slow."""
    length = Headers(scope=scope).get("content-length", "0")
    if not length.isdecimal() or int(length) > MOST_BODY_BYTES:
        return None
    body = bytearray()
    deadline = asyncio.get_running_loop().time() + _BODY_SECONDS
    while True:
        left = deadline - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(receive(), timeout=max(left, 0))
        except TimeoutError:
            return None
        body += message.get("body", b"")
        if len(body) > MOST_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What the application receives: the body at once, then what the connection says."""
    replayed = False

    async def replay() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _address(scope: Scope) -> str:
    """The client's address; for IPv6 its /64 network, because one customer owns all of it."""
    host = str((scope.get("client") or ("", 0))[0])
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return host if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))


def _called(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
