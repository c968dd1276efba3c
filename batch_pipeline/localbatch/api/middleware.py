"""The one place through which every API call passes: the log of calls, and faults on purpose.

Tests count here what a driver asked of Batch, and make Batch misbehave as the real one does: throttle, answer late
although the call took effect, leave jobs out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from batch_pipeline.localbatch.api.model import ApiRequest
from batch_pipeline.localbatch.engine.job import Document

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
        if self.faults:
            self.faults.before(request)
        answer = self._handle(request)
        return self.faults.after(request, answer) if self.faults else answer


def _short(parameters: Document) -> Document:
    """The parameters without what is long: the log of calls is for counting."""
    return {key: value for key, value in parameters.items() if key not in ("containerOverrides", "containerProperties")}
