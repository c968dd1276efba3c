"""What the requests of the service share: their dependencies, the authenticated user, and the filters of runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Final, Literal

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from batch_pipeline.access.request import SubmitRequest, UserIdentity
from batch_pipeline.access.service.answers import TooOften
from batch_pipeline.access.service.audit import AuditLog
from batch_pipeline.access.service.catalogue import Catalogue
from batch_pipeline.access.service.limits import Limiter
from batch_pipeline.access.service.models import Started
from batch_pipeline.access.service.reports import ReportPages
from batch_pipeline.access.service.tokens import TokenRefused, Verifier
from batch_pipeline.log import Facts
from batch_pipeline.records.registry import Query as RunQuery

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Service:
    """What the requests need."""

    catalogue: Catalogue
    #: Admits a request and submits its driver. Raises as `admit` and `launch`.
    start: Callable[[SubmitRequest, UserIdentity], Started]
    reports: ReportPages
    audit: AuditLog
    users: Limiter
    #: None on a machine of one developer: everybody is `insecure_user`.
    verifier: Verifier | None
    insecure_user: str = ""
    #: Header in which a proxy hands the token of who logged in to it; empty: there is no such proxy.
    token_header: str = ""


def service_of(request: Request) -> Service:
    """The service that a request is of."""
    service: Service = request.app.state.service
    return service


_BEARER = HTTPBearer(auto_error=False, bearerFormat="JWT", description="An OIDC identity token.")


def who(request: Request, _: Annotated[Any, Depends(_BEARER)]) -> UserIdentity:
    """Returns the user who asks. Raises TokenRefused, IssuerUnreachable, TooOften."""
    service = service_of(request)
    if service.verifier is None:
        identity = UserIdentity(name=service.insecure_user, source="insecure")
    else:
        try:
            identity = service.verifier.identity(_token(request, service.token_header))
        except TokenRefused as error:
            _LOG.info("token refused %s", Facts(request=request.state.request_id, because=error.message))
            raise
    request.state.user, request.state.source = identity.name, identity.source
    if seconds := service.users.wait(identity.name):
        _LOG.info(
            "throttled %s", Facts(request=request.state.request_id, user=identity.name, seconds=round(seconds, 1))
        )
        raise TooOften(seconds)
    return identity


def _token(request: Request, header: str) -> str:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    value = token.strip() if kind.lower() == "bearer" else request.headers.get(header, "") if header else ""
    if not value:
        raise TokenRefused("The request names no user. Send an identity token: `Authorization: Bearer …`, or log in.")
    return value


#: Parameters of requests.
CurrentUser = Annotated[UserIdentity, Depends(who)]
CurrentService = Annotated[Service, Depends(service_of)]


def _day(value: Any) -> Any:
    """Numbers are no days, which pydantic would take for seconds."""
    if isinstance(value, str) and len(value) not in (0, len("2026-11-21")):
        raise ValueError("a day is written 2026-11-21")
    return value


#: Forms send an empty text for none.
Day = Annotated[date | Literal[""] | None, BeforeValidator(_day)]


class Filters(BaseModel):
    """What is asked of runs; empty means any."""

    model_config = ConfigDict(extra="forbid")

    dataset: str = Field("", pattern=r"^([a-z0-9][a-z0-9-]{0,39})?$")
    level: Literal["", "test", "standard", "full"] = ""
    status: Literal["", "live", "done", "failed"] = ""
    user: str = Field("", max_length=200)
    repository: str = Field("", max_length=200)
    commit: str = Field("", pattern=r"^[0-9a-fA-F]{0,64}$")
    pipeline: str = Field("", max_length=200)
    sample: str = Field("", max_length=200)
    #: The first and the last day, in UTC.
    since: Day = None
    until: Day = None
    #: Only runs older than this one.
    before: str = Field("", pattern=r"^([0-7][0-9A-HJKMNP-TV-Z]{25})?$")
    most: int = Field(50, ge=1, le=200)

    def query(self) -> RunQuery:
        """As the registry takes it."""
        texts = self.model_dump(exclude={"since", "until", "before", "most"})
        return RunQuery(**texts, since=_moment(self.since), until=_moment(self.until, days=1))


def _moment(day: date | Literal[""] | None, days: int = 0) -> datetime | None:
    if not day:
        return None
    try:
        return datetime.combine(day + timedelta(days=days), time(), UTC)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)
