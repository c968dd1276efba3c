"""What a plan will send and take, as rows, sentences and JSON values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from batch_pipeline.backends.payload import RunContext, outline, overrides_bytes, request_bytes, submit_json
from batch_pipeline.pipeline.plan import Plan
from batch_pipeline.report.records import plain
from batch_pipeline.report.tables import counted, first_few
from batch_pipeline.run.estimate import GUESSED_SECONDS, Estimate


@dataclass(frozen=True, kw_only=True)
class Payload:
    """One SubmitJob call as it will be made."""

    job: str
    #: The parameters; ids and revisions that nobody knows yet are placeholders.
    request: dict[str, Any]
    request_bytes: int
    overrides_bytes: int
    #: Shares of what AWS takes, in per cent.
    request_percent: float
    overrides_percent: float

    @property
    def line(self) -> str:
        """Its size in words."""
        return (
            f"{self.job}: {self.request_bytes:,} bytes, {self.request_percent:g} % of what AWS takes;"
            f" overrides {self.overrides_bytes:,} bytes, {self.overrides_percent:g} %"
        )

    @property
    def text(self) -> str:
        """The parameters as JSON."""
        return json.dumps(self.request, indent=1, ensure_ascii=False)


def payloads(plan: Plan, context: RunContext) -> Iterator[Payload]:
    """Every SubmitJob call of a plan, in order."""
    limits = plan.limits
    for job, request in outline(plan, context):
        whole, part = request_bytes(request), overrides_bytes(request)
        yield Payload(
            job=job.name,
            request=submit_json(request),
            request_bytes=whole,
            overrides_bytes=part,
            request_percent=round(100 * whole / limits.max_request_bytes, 1),
            overrides_percent=round(100 * part / limits.max_overrides_bytes, 1),
        )


ESTIMATE_COLUMNS = ("step", "cells", "vCPUs", "MiB", "a cell", "told by", "vCPU-hours", "GiB-hours", "cost")


def estimate_rows(estimate: Estimate) -> list[list[object]]:
    """One row a step, and one for all where there are several."""
    rows: list[list[object]] = [
        [
            step.step,
            step.cells,
            f"{step.vcpus:g}",
            step.memory_mb,
            lasting(step.seconds),
            counted(step.receipts, "receipt") if step.receipts else "a guess",
            f"{step.vcpu_hours:,.2f}",
            f"{step.gib_hours:,.2f}",
            money(step.cost, estimate.currency),
        ]
        for step in estimate.steps
    ]
    if len(rows) > 1:
        sums = (f"{estimate.vcpu_hours:,.2f}", f"{estimate.gib_hours:,.2f}", money(estimate.cost, estimate.currency))
        rows.append(["in all", sum(step.cells for step in estimate.steps), "", "", "", "", *sums])
    return rows


def estimate_lines(estimate: Estimate) -> list[str]:
    """What the table does not say: the time, what was guessed, what is left out."""
    if not estimate.steps:
        return ["Nothing to run, so nothing to pay."]
    most_vcpus = estimate.capacity.vcpus
    within = f" with at most {counted(most_vcpus, 'vCPU')} at once" if most_vcpus else " with any number of machines"
    lines = [f"It takes at least {lasting(estimate.least_seconds)}{within}."]
    if estimate.guessed:
        guess = lasting(GUESSED_SECONDS)
        lines.append(f"No receipts yet of {first_few(estimate.guessed)}: assumes {guess} a cell.")
    priced = [step.step for step in estimate.steps if step.priced]
    machines = f"those of the machines that earlier cells had ({first_few(priced)}), else " if priced else ""
    lines.append(
        f"Prices are {machines}those of the settings (prices.*). Not included: attempts that are made again, image"
        " pulls, machines that stand idle, storage and transfer."
    )
    return lines


def estimate_record(estimate: Estimate) -> dict[str, Any]:
    """An estimate as a JSON value."""
    return {
        "steps": plain(estimate.steps),
        "vcpu_hours": estimate.vcpu_hours,
        "gib_hours": estimate.gib_hours,
        "cost": estimate.cost,
        "currency": estimate.currency,
        "least_seconds": estimate.least_seconds,
        "max_vcpus": estimate.capacity.vcpus,
        "guessed": list(estimate.guessed),
    }


def lasting(seconds: float) -> str:
    """A span of time in words: `12 s`, `10 min`, `3 h 20 min`, `2 d 4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def money(amount: float, currency: str) -> str:
    """`12.34 USD`; small sums with more digits."""
    if 0 < amount < 0.0001:
        return f"under 0.0001 {currency}"
    return f"{amount:,.2f} {currency}" if amount >= 1 or not amount else f"{amount:.4f} {currency}"
