"""Error responses: a status, a sentence, the problems of the request, and the request's id. No tracebacks.

The maintainers find the same id in the service's log and in the audit log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from batch_pipeline.access.service.keys import IssuerUnreachable
from batch_pipeline.access.service.tokens import TokenRefused
from batch_pipeline.wire.errors import (
    BackendFailed,
    BatchPipelineError,
    InvalidConfig,
    InvalidUse,
    Problem,
    Refused,
    RepositoryFailed,
    RunConflict,
    StoreFailed,
)
from batch_pipeline.wire.scrub import scrubbed
from batch_pipeline.wire.store import NotInStore


class TooOften(BatchPipelineError):
    """Too many requests came from there. Wait a little."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = max(1, round(seconds + 0.5))


#: The first that fits. A sentence here replaces the error's own, which is for the service's maintainers.
_STATUSES: Final[Sequence[tuple[type[BatchPipelineError], int, str | None]]] = (
    (TokenRefused, 401, None),
    (TooOften, 429, None),
    (IssuerUnreachable, 503, None),
    (InvalidConfig, 500, "The service or the dataset's policy is not set up rightly. Tell its maintainers."),
    (NotInStore, 404, None),
    (InvalidUse, 400, None),
    (RunConflict, 409, None),
    (RepositoryFailed, 502, None),
    (StoreFailed, 503, "A store cannot be reached now. Try again; if it stays so, tell the service's maintainers."),
    (BackendFailed, 502, None),
    (BatchPipelineError, 500, "Something went wrong in the service. Tell its maintainers the request's id."),
)


def status_of(error: BatchPipelineError) -> int:
    """The status that an error is answered with."""
    return error.status if isinstance(error, Refused) else _entry(error)[0]


def answer_to(error: BatchPipelineError, request_id: str) -> Response:
    """The answer in JSON."""
    problems = error.problems if isinstance(error, Refused) else ()
    headers = {}
    if isinstance(error, TokenRefused):
        headers["WWW-Authenticate"] = 'Bearer realm="batch-pipeline"'
    if isinstance(error, TooOften):
        headers["Retry-After"] = str(error.seconds)
    return error_answer(status_of(error), sentence_of(error), request_id, problems=problems, headers=headers)


def sentence_of(error: BatchPipelineError) -> str:
    """The sentence about an error that is sent to the client."""
    if isinstance(error, Refused):
        return "The run was refused; nothing was started." if len(error.problems) > 1 else str(error.problems[0])
    return _entry(error)[1] or scrubbed(error.message)


def error_answer(
    status: int,
    sentence: str,
    request_id: str,
    *,
    problems: Sequence[Problem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The one form of all answers that are none."""
    body = {"error": sentence, "problems": [problem.to_json() for problem in problems], "request_id": request_id}
    return JSONResponse(body, status_code=status, headers=dict(headers or {}))


def wants_page(request: Request) -> bool:
    """Whether the client prefers a page to JSON, as browsers do."""
    for kind in request.headers.get("accept", "").split(","):
        name = kind.partition(";")[0].strip().lower()
        if name in ("text/html", "application/json"):
            return name == "text/html"
    return False


def _entry(error: BatchPipelineError) -> tuple[int, str | None]:
    return next((status, sentence) for kind, status, sentence in _STATUSES if isinstance(error, kind))
