"""Hours and money that runs took, in words, with what is not known of them. Pure."""

from __future__ import annotations

from collections.abc import Collection

from batch_pipeline.records.record import RunRecord
from batch_pipeline.records.spent import Spent, wall_seconds
from batch_pipeline.report.estimates import lasting, money
from batch_pipeline.report.tables import counted

#: Machines without a price that are told one by one.
_FEW = 3


def run_spent_words(run: RunRecord) -> str:
    """What a run took, as recorded; empty: nobody knows."""
    return spent_words(Spent.from_json(run.spent), run.done)


def spent_words(spent: Spent, done: int) -> str:
    """`12.5 vCPU-hours, 48.0 GiB-hours, 0.63 USD, of which 3 % lost to failures`; empty: nobody knows.

    `done`: cells that the runs made; where fewer are known it is said.
    """
    if not (spent.receipts or spent.vcpu_hours):
        return ""
    amounts = [f"{hours_words(spent.vcpu_hours)} vCPU-hours", f"{hours_words(spent.gib_hours)} GiB-hours"]
    amounts += [cost_words(spent)] if cost_words(spent) else []
    shares = [
        f"{_percent(hours / spent.vcpu_hours)} {words}"
        for hours, words in (
            (spent.lost_vcpu_hours, "lost to failures"),
            (spent.interrupted_vcpu_hours, "to interruptions (Spot, lost hosts)"),
        )
        if hours
    ]
    amounts += [f"of which {' and '.join(shares)}"] if shares else []
    return ", ".join(amounts) + (f" (after {spent.receipts:,} of its receipts)" if spent.receipts < done else "")


def spent_notes(spent: Spent) -> list[str]:
    """What is not in the sums, and why, a sentence each."""
    notes = []
    if spent.unpriced:
        machines = sorted(spent.unpriced.items(), key=lambda item: -item[1])
        some = [f"{counted(cells, 'cell')} ran on {machine}" for machine, cells in machines[:_FEW]]
        rest = sum(cells for _, cells in machines[_FEW:])
        some += [f"{rest:,} on other machines without a price"] if rest else []
        notes.append(
            f"Cost unknown: {', '.join(some)}. `prices show` lists the prices, `prices update FILE` adds some."
        )
    if spent.unrecorded:
        attempts = counted(spent.unrecorded, "attempt")
        notes.append(f"Not included: {attempts} that left no record, killed with the container.")
    if spent.vcpu_hours and not spent.with_failures:
        notes.append("Not included: attempts that failed, which an earlier version did not count.")
    return notes


def cost_words(spent: Spent) -> str:
    """`0.63 USD`, or `over 0.63 USD` where the machines of some cells have no price; empty: none is known."""
    if not spent.cost:
        return ""
    known = money(spent.cost, spent.currency)
    return f"over {known}" if spent.unpriced else known


def took_words(runs: Collection[RunRecord]) -> str:
    """How long runs took together on the clock: `3 h 20 min`; empty while one of them goes on."""
    seconds = wall_seconds(runs)
    return "" if seconds is None else lasting(seconds)


def hours_words(hours: float) -> str:
    """Hours with as many digits as matter."""
    if 0 < hours < 0.001:
        return "under 0.001"
    return f"{hours:,.1f}" if hours >= 10 else f"{hours:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
