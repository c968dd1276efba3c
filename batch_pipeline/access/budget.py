"""What the runs of a dataset cost this month, by their records: what its budget is compared with at admission.

Drivers are recorded in the stores of the levels, the runs that they begin where they write. What a run cost is known
when it has ended; one that goes on is counted, and costs nothing yet. A month is one of UTC's, and a run is of the
month in which it began.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from batch_pipeline.access.policy import DatasetPolicy
from batch_pipeline.access.request import SpendingFacts
from batch_pipeline.records.record import RunRecord
from batch_pipeline.records.registry import Query, find_runs
from batch_pipeline.records.spent import spent_in
from batch_pipeline.wire.store import Store


def spending_facts(policy: DatasetPolicy, stores: Callable[[str], Store], now: datetime) -> SpendingFacts:
    """What the runs of a dataset that began this month cost. Raises StoreFailed.

    `stores` opens a store by its URL. A LIST and two GETs a run for each store and each place where drivers wrote that
    began this month or in the one before.
    """
    first = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    before = (first - timedelta(days=1)).replace(day=1)
    runs: dict[str, RunRecord] = {}
    for url in {place.store.rstrip("/") for place in policy.levels.values()}:
        drivers = find_runs(stores(url), Query(dataset=policy.dataset, since=before))
        for prefix in {record.output_prefix.strip("/") for record in drivers if record.output_prefix}:
            begun = find_runs(stores(f"{url}/{prefix}"), Query(dataset=policy.dataset, since=first))
            runs |= {record.run_id: record for record in begun}
    spent = spent_in(runs.values())
    return SpendingFacts(
        month=f"{first:%Y-%m}",
        cost=spent.cost,
        currency=spent.currency,
        live=sum(not record.ended for record in runs.values()),
        unpriced=sum(spent.unpriced.values()),
    )
