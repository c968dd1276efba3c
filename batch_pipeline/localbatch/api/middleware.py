"""The one place through which every API call passes: the log of calls, and faults on purpose.

Tests count here what a driver asked of Batch, and make Batch misbehave as the real one does: throttle, answer late
although the call took effect, leave jobs out.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from batch_pipeline.localbatch.api.model import ApiError, ApiRequest
from batch_pipeline.localbatch.engine.job import Document
from batch_pipeline.wire.log_line import Facts

_LOG = logging.getLogger(__name__)

#: Calls remembered; older ones are forgotten.
REMEMBERED = 10_000


class AnswerLost(Exception):
    """The call took effect and its answer never arrives."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiCall:
    """One API call that was made."""

    operation: str
    time_ms: int
    #: `jobName` of a SubmitJob, the ids of a DescribeJobs, and so on.
    parameters: Document


class Faults(Protocol):
    """What goes wrong on purpose."""

    def before(self, request: ApiRequest) -> None:
        """Called before a call takes effect; raising `ApiError` refuses it."""

    def after(self, request: ApiRequest, answer: Document) -> Document:
        """Called after it took effect; may change the answer, or raise `AnswerLost` or `ApiError`."""


class ApiMiddleware:
    """Passes requests on to `handle`, remembers them, and applies the faults."""

    def __init__(self, handle: Callable[[ApiRequest], Document], now_ms: Callable[[], int]) -> None:
        self._handle = handle
        self._now_ms = now_ms
        self.calls: deque[ApiCall] = deque(maxlen=REMEMBERED)
        self.faults: Faults | None = None

    def call(self, request: ApiRequest) -> Document:
        """Answers a request."""
        self.calls.append(
            ApiCall(operation=request.operation, time_ms=self._now_ms(), parameters=_short(request.parameters))
        )
        if self.faults is None:
            return self._handle(request)
        with _logged(request):
            self.faults.before(request)
        answer = self._handle(request)
        with _logged(request):
            return self.faults.after(request, answer)


@contextmanager
def _logged(request: ApiRequest) -> Iterator[None]:
    try:
        yield
    except (ApiError, AnswerLost) as error:
        _LOG.info("fault injected %s", Facts(operation=request.operation, error=repr(error)))
        raise


def _short(parameters: Document) -> Document:
    """The parameters without what is long: the log of calls is for counting."""
    return {key: value for key, value in parameters.items() if key not in ("containerOverrides", "containerProperties")}
