"""Orders to cancel, kept in the store: a cell that ends after one of them was cancelled, whatever its container saw.

An order is written before anything is ended, so that it stands whoever dies meanwhile; a driver that still submits can
read it too. Orders are never changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from batch_pipeline.records.events import FailedCell
from batch_pipeline.records.history import Happened, append_if_possible, new_run_id, now
from batch_pipeline.records.people import user_name
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.store import Store

#: What a cancelled cell may look like to its container, or to a backend that has forgotten it.
_MEANT = frozenset({EndReason.INTERRUPTED, EndReason.LOST, EndReason.DEPENDENCY, EndReason.STORE})
SENTENCE = "It was cancelled by {user}."


@dataclass(frozen=True, kw_only=True)
class Order:
    """One order to cancel cells of a run."""

    run_id: str
    #: None: all.
    steps: frozenset[str] | None = None
    #: None: all, gathers too.
    samples: frozenset[str] | None = None
    user: str = ""

    def takes(self, step: str, sample: str) -> bool:
        """Whether the cell is among those to cancel."""
        return (self.steps is None or step in self.steps) and (self.samples is None or sample in self.samples)


def write_order(store: Store, order: Order) -> None:
    """Keeps an order, as this user's where it names none."""
    value: dict[str, Any] = {
        "format": 1,
        "run_id": order.run_id,
        "steps": None if order.steps is None else sorted(order.steps),
        "samples": None if order.samples is None else sorted(order.samples),
        "user": order.user or user_name(),
        "ordered_at": now(),
    }
    store.put_json(layout.cancelled(order.run_id, f"{new_run_id()}.json"), value)
    append_if_possible(store, order.run_id, Happened.CANCELLED, _told(order), steps=value["steps"])


def _told(order: Order) -> str:
    steps = ", ".join(sorted(order.steps)) if order.steps else "all steps"
    return f"{steps}, {f'{len(order.samples):,} samples' if order.samples else 'all samples'}"


def is_any_cancelled(store: Store, run_ids: Iterable[str]) -> bool:
    """Whether somebody ordered the end of one of these runs, as a whole. One LIST a run."""
    orders = (order for run_id in run_ids for order in read_orders(store, run_id))
    return any(order.steps is None and order.samples is None for order in orders)


def read_orders(store: Store, run_id: str) -> list[Order]:
    """The orders about a run, oldest first; one LIST when there are none."""
    orders = []
    for key in sorted(entry.key for entry in store.list(layout.cancelled(run_id))):
        record = store.get_json(key)
        steps, samples = (None if record[name] is None else frozenset(record[name]) for name in ("steps", "samples"))
        orders.append(Order(run_id=run_id, steps=steps, samples=samples, user=record["user"]))
    return orders


def pass_orders_on(store: Store, run_id: str, later_id: str) -> None:
    """Has the orders about steps or samples of a run hold for a later one of the same driver too. One LIST."""
    for order in dict.fromkeys(read_orders(store, run_id)):
        if order.steps is not None or order.samples is not None:
            write_order(store, replace(order, run_id=later_id))


def as_ordered(store: Store, cells: Sequence[FailedCell]) -> list[FailedCell]:
    """The cells, those that ended because somebody wanted it as cancelled. One LIST a run with a doubtful cell."""
    meant = {cell.run_id for cell in cells if cell.run_id and cell.reason in _MEANT | {EndReason.CANCELLED}}
    orders = {run_id: read_orders(store, run_id) for run_id in sorted(meant)}
    return [_as_ordered(cell, orders.get(cell.run_id, ())) for cell in cells]


def _as_ordered(cell: FailedCell, orders: Iterable[Order]) -> FailedCell:
    if cell.reason not in _MEANT and cell.reason is not EndReason.CANCELLED:
        return cell
    for order in orders:
        if order.takes(cell.step, cell.sample):
            message = SENTENCE.format(user=order.user or "the user")
            return replace(cell, reason=EndReason.CANCELLED, message=message, because_of="")
    return cell
