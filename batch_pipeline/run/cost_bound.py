"""The most that a run may cost (`prices.max_cost`): refuses waves above it, and cancels jobs that go beyond it.

Waves are compared before they are sent: what the command's runs that have ended took, and the estimate of the wave.
What running jobs have spent is looked at only where `prices.max_cost_cancel` is set, now and then, from some of their
cells.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from batch_pipeline.backends.base import Backend
from batch_pipeline.log import Facts
from batch_pipeline.pipeline.plan import Inventory, Plan
from batch_pipeline.records.history import Happened, append_if_possible
from batch_pipeline.records.request import Request
from batch_pipeline.records.spent import read_records, spent_in, spent_of
from batch_pipeline.records.submissions import Submission
from batch_pipeline.run.cancel import cancel_run
from batch_pipeline.wire.errors import NotReady

#: Between two looks at what running jobs have spent.
LOOK_SECONDS: Final = 300.0
_LOG: Final = logging.getLogger(__name__)


def cost_problem(request: Request, plan: Plan, inventory: Inventory, backend: object, run_ids: Sequence[str]) -> str:
    """Why a wave must not be sent, in a sentence; empty: it may. `run_ids`: the runs that the command followed before.

    Nothing is read where no bound is set. Raises StoreFailed.
    """
    bound = request.settings.prices.max_cost
    if not bound or not plan.jobs:
        return ""
    # A run without a bound does without.
    from batch_pipeline.run.estimate import estimate

    estimated = estimate(request, plan, inventory, backend)
    spent = spent_in(read_records(request.store, run_ids)).cost
    if spent + estimated.cost <= bound:
        return ""
    parts = f" (spent {_amount(spent)}, estimate {_amount(estimated.cost)})" if run_ids else ""
    return (
        f"By estimate the run would cost {_amount(spent + estimated.cost)} {estimated.currency}{parts}, more than"
        f" prices.max_cost {_amount(bound)}. Choose fewer samples or raise --max-cost; see `plan --estimate`."
    )


def require_cost(request: Request, plan: Plan, inventory: Inventory, backend: object, run_ids: Sequence[str]) -> None:
    """Raises NotReady for a wave above the bound."""
    if problem := cost_problem(request, plan, inventory, backend, run_ids):
        raise NotReady(problem)


class CostWatch:
    """Sleeps between two polls of a driver, and cancels its jobs once they have spent more than the bound."""

    def __init__(
        self,
        request: Request,
        backend: Backend,
        jobs: Sequence[Submission],
        run_ids: Sequence[str],
        *,
        sleep: Callable[[float], None],
        clock: Callable[[], float],
    ) -> None:
        self._request = request
        self._backend = backend
        self._jobs = jobs
        self._running = list(dict.fromkeys(job.run_id for job in jobs))
        self._before = [run_id for run_id in run_ids if run_id not in self._running]
        self._sleep = sleep
        self._clock = clock
        self._looked_at = clock()
        self._is_cancelled = False

    def sleep(self, seconds: float) -> None:
        """Sleeps, and looks when it is time to."""
        self._sleep(seconds)
        if self._is_cancelled or self._clock() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = self._clock()
        request, store = self._request, self._request.store
        running = sum(spent_of(store, run_id, self._jobs, request.settings).cost for run_id in self._running)
        spent = running + spent_in(read_records(store, self._before)).cost
        bound = request.settings.prices.max_cost
        _LOG.info("spent %s", Facts(runs=",".join(self._running), cost=round(spent, 2), max_cost=bound))
        if spent <= bound:
            return
        self._is_cancelled = True
        for run_id in self._running:
            message = f"{_amount(spent)} spent, more than prices.max_cost {_amount(bound)}"
            append_if_possible(store, run_id, Happened.COST_BOUND, message)
            cancel_run(store, self._backend, run_id)


def _amount(money: float) -> str:
    return f"{money:,.2f}" if money >= 1 else f"{money:.3g}"
