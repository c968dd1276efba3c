"""Logs what a driver tells: that it began, each plan by step and state, what goes again, what waits, how it ended.

A driver that was killed has a line `driver began` and none that it ended; the next one that takes its runs over says so
in the same log (`records.driver_log`). Counts only, never a line a cell.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from batch_pipeline.log import Facts, kept_by
from batch_pipeline.pipeline.plan import CellState, Plan
from batch_pipeline.pipeline.waves import children_by_wave
from batch_pipeline.records.driver_log import DriverLog
from batch_pipeline.records.events import CompositeListener, Listener, NullListener, Outcome, RetrySummary
from batch_pipeline.records.people import user_name
from batch_pipeline.wire.errors import BatchPipelineError
from batch_pipeline.wire.store import Store

#: States for which a plan is told step by step; one without any has nothing to do, and a million cells to count.
_MOVING: Final = (CellState.TO_RUN, CellState.LIVE, CellState.DEFERRED, CellState.BLOCKED)
_LOG: Final = logging.getLogger(__name__)


@contextmanager
def logged(store: Store, listener: Listener) -> Iterator[Listener]:
    """The listener, joined by one that logs, for the time of one driver; its lines are kept in the runs' folders."""
    with kept_by(DriverLog(store)):
        me = Facts(pid=os.getpid(), host=socket.gethostname(), user=user_name())
        _LOG.info("driver began %s", me)
        try:
            yield CompositeListener([listener, EventLog()])
        except KeyboardInterrupt:
            _LOG.info("driver interrupted %s", me)
            raise
        except BatchPipelineError as error:
            _LOG.info("driver stopped %s", Facts(error=type(error).__name__, message=error.message))
            raise


class EventLog(NullListener):
    """A listener that logs."""

    def planned(self, plan: Plan) -> None:
        """See `Listener.planned`. A line a step; cells that are deferred or blocked have their own."""
        if not any(state in states for states in plan.states.values() for state in _MOVING):
            _LOG.info("planned %s", Facts(jobs=0))
            return
        jobs = Counter(job.step for job in plan.jobs)
        for step in plan.states:
            counts = plan.counts(step)
            _LOG.info("planned %s", Facts(step=step, jobs=jobs[step], **_by_state(counts)))
            if counts[CellState.DEFERRED]:
                _LOG.info("deferred %s", Facts(step=step, cells=counts[CellState.DEFERRED], until="live jobs end"))
        children = children_by_wave(plan)
        if len(children) > 1:
            bound = plan.limits.max_live_children
            _LOG.info("in waves %s", Facts(waves=len(children), children=sum(children), at_once=bound))
        blocked = Counter(step for step, _ in plan.blocked)
        because = {step: sentence for (step, _), sentence in plan.blocked.items()}
        for step, cells in blocked.items():
            _LOG.info("blocked %s", Facts(step=step, cells=cells, because=because[step]))

    def stuck(self, step: str, sentence: str) -> None:
        """See `Listener.stuck`."""
        _LOG.info("waiting %s", Facts(step=step, because=sentence))

    def again(self, lines: Sequence[RetrySummary]) -> None:
        """See `Listener.again`."""
        for line in lines:
            more: dict[str, Any] = {"memory_mb": line.memory_mb} if line.memory_mb else {}
            more |= {"queue": line.queue} if line.queue else {}
            _LOG.info("recovered %s", Facts(step=line.step, cells=line.cells, reason=line.reason, **more))

    def ended(self, outcome: Outcome) -> None:
        """See `Listener.ended`."""
        facts = Facts(
            runs=",".join(outcome.run_ids),
            submitted=outcome.submitted,
            failed=len(outcome.failed),
            blocked=len(outcome.blocked),
            detached=outcome.detached,
            unsent=outcome.unsent,
            stopped_by=outcome.stopped_by,
        )
        _LOG.info("driver ended %s", facts)


def _by_state(counts: Mapping[CellState, int]) -> dict[str, int]:
    """Cells by state, those that there are, under names without blanks."""
    return {state.value.replace(" ", "_"): counts[state] for state in CellState if counts[state]}
