"""The most that a run may cost (`prices.max_cost`): refuses waves above it, and cancels jobs that go beyond it.

Waves are compared before they are sent: what the command's runs took so far, and the estimate of what is not sent yet.
What jobs spend while they run is looked at only where `prices.max_cost_cancel` is set, now and then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from batch_pipeline.backends.base import Backend
from batch_pipeline.log import Facts
from batch_pipeline.pipeline.plan import Inventory, Plan
from batch_pipeline.records.history import Happened, append_if_possible
from batch_pipeline.records.request import Request
from batch_pipeline.records.spent import read_records, spent_in, spent_of
from batch_pipeline.records.submissions import Submission
from batch_pipeline.run.cancel import cancel_run
from batch_pipeline.run.snapshot import Snapshot
from batch_pipeline.wire.errors import NotReady

#: Between two looks at what running jobs have spent.
LOOK_SECONDS: Final = 300.0
_LOG: Final = logging.getLogger(__name__)


def cost_problem(
    request: Request,
    plan: Plan,
    inventory: Inventory,
    backend: object,
    run_ids: Sequence[str],
    jobs: Sequence[Submission] = (),
    *,
    unended: Mapping[str, int] | None = None,
) -> str:
    """Why what a plan sends must not be sent, in a sentence; empty: it may.

    `run_ids` are the runs that the command followed before, `jobs` those of them that run still, and `unended` says how
    many cells of a step these have that have not ended. Nothing is read where no bound is set. Raises StoreFailed.
    """
    bound = request.settings.prices.max_cost
    if not bound or not plan.jobs:
        return ""
    # A run without a bound does without.
    from batch_pipeline.run.estimate import estimate

    estimated = estimate(request, plan, inventory, backend)
    cost = estimated.cost + sum(step.cost / step.cells * (unended or {}).get(step.step, 0) for step in estimated.steps)
    spent = spent_so_far(request, run_ids, jobs)
    if spent + cost <= bound:
        return ""
    parts = f" (spent {_amount(spent)}, estimate {_amount(cost)})" if run_ids else ""
    return (
        f"By estimate the run would cost {_amount(spent + cost)} {estimated.currency}{parts}, more than"
        f" prices.max_cost {_amount(bound)}. Choose fewer samples or raise --max-cost; see `plan --estimate`."
    )


def require_cost(request: Request, plan: Plan, inventory: Inventory, backend: object, run_ids: Sequence[str]) -> None:
    """Raises NotReady for a wave above the bound."""
    if problem := cost_problem(request, plan, inventory, backend, run_ids):
        raise NotReady(problem)


def waves_problem(
    snapshot: Snapshot,
    wave: int,
    backend: object,
    run_ids: Sequence[str],
    jobs: Sequence[Submission],
    *,
    unended: Mapping[str, int],
) -> str:
    """The same of a wave of a plan and those after it, while jobs of the earlier ones run."""
    rest = replace(snapshot.plan, jobs=tuple(job for job in snapshot.plan.jobs if job.wave >= wave))
    return cost_problem(snapshot.request, rest, snapshot.inventory, backend, run_ids, jobs, unended=unended)


def spent_so_far(request: Request, run_ids: Sequence[str], jobs: Sequence[Submission]) -> float:
    """What runs have cost: as recorded where they have ended, else by some cells of their jobs. Raises StoreFailed."""
    records = read_records(request.store, run_ids)
    live = (spent_of(request.store, run.run_id, jobs, request.settings).cost for run in records if not run.ended)
    return spent_in([run for run in records if run.ended]).cost + sum(live)


def cost_watch(
    request: Request,
    backend: Backend,
    jobs: Sequence[Submission],
    run_ids: Sequence[str],
    *,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
) -> Callable[[float], None]:
    """What a driver sleeps by: a `CostWatch` where jobs are to be cancelled for their cost, else `sleep` itself."""
    prices = request.settings.prices
    if not (prices.max_cost and prices.max_cost_cancel):
        return sleep
    return CostWatch(request, backend, jobs, run_ids, sleep=sleep, clock=clock).sleep


class CostWatch:
    """Sleeps between two polls of a driver, and cancels its jobs once its runs have spent more than the bound.

    The driver adds to `jobs` and `run_ids` what it sends later.
    """

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
        self._run_ids = run_ids
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
        spent, bound = spent_so_far(request, self._run_ids, self._jobs), request.settings.prices.max_cost
        _LOG.info("spent %s", Facts(runs=",".join(self._run_ids), cost=round(spent, 2), max_cost=bound))
        if spent <= bound:
            return
        self._is_cancelled = True
        for run_id in dict.fromkeys(job.run_id for job in self._jobs):
            message = f"{_amount(spent)} spent, more than prices.max_cost {_amount(bound)}"
            append_if_possible(store, run_id, Happened.COST_BOUND, message)
            cancel_run(store, self._backend, run_id)


def _amount(money: float) -> str:
    return f"{money:,.2f}" if money >= 1 else f"{money:.3g}"
