"""Starts the service from settings: everything is checked before it listens.

It listens on `server.host`, by default this machine alone, and speaks plain HTTP: anywhere else a reverse proxy with
https stands before it. `--insecure-user` requires no token and is for a developer's own machine: it listens nowhere
else, and answers under no name but this machine's.

Each decision is a log line (`batch_pipeline.log`): started, admitted, refused, launched, throttled, token refused,
answered, stopped. `--verbose` and `--log-file` show them; the audit log (`audit`) is kept in any case.
"""

from __future__ import annotations

import logging
import threading
from typing import Any, Final

from batch_pipeline import backends
from batch_pipeline.access.admission import admit
from batch_pipeline.access.admission_context import admission_context_of
from batch_pipeline.access.launching import launch
from batch_pipeline.access.names import has_control
from batch_pipeline.access.request import SubmitRequest, UserIdentity
from batch_pipeline.access.service.app import make_app
from batch_pipeline.access.service.audit import AuditLog
from batch_pipeline.access.service.catalogue import Catalogue
from batch_pipeline.access.service.guard import GuardConfig, RequestGuard
from batch_pipeline.access.service.keys import IssuerKeys
from batch_pipeline.access.service.limits import Limiter
from batch_pipeline.access.service.models import Started
from batch_pipeline.access.service.reports import ReportPages
from batch_pipeline.access.service.service import Service
from batch_pipeline.access.service.tokens import TokenRules, Verifier
from batch_pipeline.backends.base import JobSubmitter
from batch_pipeline.backends.credentials import reach_of
from batch_pipeline.config import Settings
from batch_pipeline.log import Facts
from batch_pipeline.wire.errors import InvalidConfig, InvalidUse
from batch_pipeline.wire.loopback import is_loopback
from batch_pipeline.wire.store import Store, open_store

_LOG: Final = logging.getLogger(__name__)
#: An address may be a whole institute's.
ADDRESS_FACTOR: Final = 10
_OWN_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_MOST_CONNECTIONS: Final = 200
#: Requests to start a run that are handled at once; the rest wait.
_MOST_STARTS: Final = 4


def make_guarded(settings: Settings, backend: JobSubmitter, *, insecure_user: str = "") -> RequestGuard:
    """The whole application. Raises InvalidConfig for settings or policies that are wrong, StoreFailed."""
    if has_control(insecure_user) or insecure_user == "*":
        raise InvalidUse(f"{insecure_user!r} is not a name of a user. Give one that policies may name.")
    audit = AuditLog(settings.server.audit_file)
    service = Service(
        catalogue=_catalogue(settings),
        start=_Starter(settings, backend),
        reports=ReportPages(settings),
        audit=audit,
        users=Limiter(settings.server.requests_per_minute),
        verifier=None if insecure_user else verifier_of(settings),
        insecure_user=insecure_user,
        token_header=settings.server.token_header,
    )
    guard_config = GuardConfig(
        audit=audit,
        addresses=Limiter(settings.server.requests_per_minute * ADDRESS_FACTOR),
        hosts=_OWN_NAMES if insecure_user else frozenset(),
    )
    return RequestGuard(make_app(service), guard_config)


def verifier_of(settings: Settings) -> Verifier:
    """Makes the verifier of identity tokens. Raises InvalidConfig."""
    if not settings.server.issuer:
        raise InvalidConfig(
            "server.issuer is not set, so users cannot be authenticated. Set server.issuer and server.audience, or, on"
            " your own machine, give --insecure-user NAME."
        )
    rules = TokenRules(
        audience=settings.server.audience,
        algorithms=tuple(settings.server.algorithms.split(",")),
        claim=settings.server.claim,
        leeway_seconds=settings.server.leeway_seconds,
    )
    return Verifier(IssuerKeys(settings.server.issuer), rules)


def serve(settings: Settings, *, insecure_user: str = "") -> None:
    """Listens until it is interrupted or told to end. Raises InvalidUse, InvalidConfig, StoreFailed."""
    import uvicorn

    host = settings.server.host
    if insecure_user and not is_loopback(host):
        raise InvalidUse(
            f"--insecure-user lets everybody who reaches {host} in as {insecure_user}; it listens on this machine"
            " alone. Set server.host to 127.0.0.1, or server.issuer and leave --insecure-user out."
        )
    backend = backends.create(settings)
    try:
        app = make_guarded(settings, backend, insecure_user=insecure_user)
        users = {"insecure_user": insecure_user} if insecure_user else {"issuer": settings.server.issuer}
        about = {"host": host, "port": settings.server.port, "backend": settings.backend.name}
        _LOG.info("started %s", Facts(**about, policies=settings.access.policies, **users))
        try:
            uvicorn.run(app, **listening_of(settings))
        finally:
            _LOG.info("stopped %s", Facts(**about))
    finally:
        backend.close()


def listening_of(settings: Settings) -> dict[str, Any]:
    """How uvicorn listens. Whom a request is from is believed of a proxy that is named, and of no other."""
    proxy = settings.server.trusted_proxy
    return {
        "host": settings.server.host,
        "port": settings.server.port,
        "access_log": False,  # the audit log has it, with who
        "server_header": False,
        "proxy_headers": bool(proxy),
        "forwarded_allow_ips": proxy or "",
        "limit_concurrency": _MOST_CONNECTIONS,
        "timeout_graceful_shutdown": 30,
    }


def _catalogue(settings: Settings) -> Catalogue:
    reach = reach_of(settings)

    def opened(url: str) -> Store:
        return open_store(url, reach=reach)

    catalogue = Catalogue(settings.access.policies, opened)
    catalogue.check()
    return catalogue


class _Starter:
    """Admits requests and submits their drivers, as `submit` does."""

    def __init__(self, settings: Settings, backend: JobSubmitter) -> None:
        self._settings = settings
        self._backend = backend
        self._context = admission_context_of(settings, backend)
        self._slots = threading.BoundedSemaphore(_MOST_STARTS)
        #: A backend is no one's to share between threads.
        self._backend_lock = threading.Lock()

    def __call__(self, request: SubmitRequest, identity: UserIdentity) -> Started:
        """Raises Refused with nothing done, and what `launch` raises."""
        with self._slots:
            grant = admit(request, identity, self._context)
            with self._backend_lock:
                driver = launch(grant, self._settings, self._backend)
        return Started(
            run_id=driver.run_id,
            native_id=driver.native_id,
            output=driver.output,
            url=f"/runs/{driver.run_id}",
        )
