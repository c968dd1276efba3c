"""Right-sizing: the memory and vCPUs that steps need, from the usage that the receipts of their cells record.

A bounded number of receipts a step is read, spread evenly over the samples, or all of them. A cell that ran out of
memory and was never done since left no receipt, but counts (`records.usage`), or a table of those that fitted would
propose what they did not fit in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Final

from batch_pipeline.records.usage import CellUsage, needs_of, quantile, usage_of
from batch_pipeline.records.whole_store import receipt_entries
from batch_pipeline.run.verdict import read_failed
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.receipt import Receipt
from batch_pipeline.wire.store import NotInStore, Store

#: Receipts of a step that are read unless all are wanted.
MOST: Final = 1_000
AT_ONCE: Final = 16
#: Runs that are searched for cells that ran out of memory, newest first.
RUNS_SEARCHED: Final = 50
#: Shares of the cells in the table, in percent.
SHARES: Final = (50, 90, 95, 99, 100)
#: vCPUs that may be wanted beyond a whole number before another one is proposed.
SLACK_CPUS: Final = 0.2


@dataclass(frozen=True, kw_only=True)
class ResourceProposal:
    """What a step's job definition should say."""

    step: str
    #: Cells looked at, and how many there are.
    cells: int
    all_cells: int
    #: Of those looked at, cells that ran out of memory and were never done.
    out_of_memory: int
    #: What the step has now; 0 where that is unknown.
    memory_mb_now: int
    cpus_now: int
    #: Percent of the cells -> MiB in which they fit, with room.
    memory_mb_for: Mapping[int, int]
    #: Percent of the cells that fit into what the step has now; None where that is unknown.
    fit_now: float | None
    memory_mb: int
    cpus: int
    #: vCPUs that were busy in the median cell, and in nearly all.
    busy_median: float
    busy_most: float

    @property
    def changes(self) -> bool:
        """Whether something else than now is proposed."""
        return (self.memory_mb, self.cpus) != (self.memory_mb_now, self.cpus_now)


def rightsize(
    store: Store,
    *,
    steps: Sequence[str] = (),
    now: Mapping[str, tuple[int, int]] | None = None,
    most: int | None = MOST,
    share: int = 99,
    headroom: float = 0.2,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[ResourceProposal]:
    """One proposal a step that has receipts, in the order of `now`, then by name.

    Parameters
    ----------
    now
        Step -> vCPUs and MiB of its job definition; default: what its newest receipt says that it had.
    most
        Receipts read of each step; None: all.
    share
        Percent of the cells that the proposal must hold, one of SHARES.
    headroom
        Room above what was taken, as a share of it.
    """
    listed: dict[str, dict[str, str]] = {}
    for prefix in map(layout.step_receipts, steps) if steps else (layout.RECEIPTS,):
        for entry in chain.from_iterable(receipt_entries(store, prefix, etags=False)):
            if (cell := layout.cell_of_receipt(entry.key)) is not None:
                of_step = listed.setdefault(cell[0], {})
                # Of two receipts of a cell always the same one.
                of_step[cell[1]] = max(entry.key, of_step.get(cell[1], ""))
    hungry = _hungry(store, listed)
    order = [*(step for step in now or {} if step in listed or step in hungry)]
    order += sorted(step for step in {*listed, *hungry} if step not in order and (not steps or step in steps))
    chosen = {step: _spread(sorted(listed.get(step, {}).values()), most) for step in order}
    total, done, proposals = sum(map(len, chosen.values())), 0, []
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="receipts") as pool:
        for step in order:
            usages: list[CellUsage] = []
            for one in pool.map(lambda key: _read(store, key), chosen[step]):
                done += 1
                progress(done, total)
                if one is not None:
                    usages.append(one)
            usages += hungry.get(step, [])
            if usages:
                cells = len(listed.get(step, {})) + len(hungry.get(step, []))
                proposals.append(propose(step, usages, cells, (now or {}).get(step), share=share, headroom=headroom))
    return proposals


def propose(
    step: str,
    usages: Sequence[CellUsage],
    cells: int,
    now: tuple[int, int] | None,
    *,
    share: int = 99,
    headroom: float = 0.2,
) -> ResourceProposal:
    """The proposal for a step from what at least one of its cells took. Pure."""
    newest = max((one for one in usages if one.memory_mb), key=lambda one: one.started_at, default=None)
    cpus_now, memory_mb_now = now or ((newest.cpus, newest.memory_mb) if newest else (0, 0))
    needs = needs_of(usages, headroom)
    busy = sorted(one.cpu_seconds / one.seconds for one in usages if not one.guessed and one.seconds > 0)
    table = {percent: quantile(needs, percent) for percent in SHARES}
    most_busy = quantile(busy, 95) if busy else 0.0
    wanted = max(1, math.ceil(most_busy - SLACK_CPUS)) if busy else cpus_now
    return ResourceProposal(
        step=step,
        cells=len(usages),
        all_cells=cells,
        out_of_memory=sum(one.guessed for one in usages),
        memory_mb_now=memory_mb_now,
        cpus_now=cpus_now,
        memory_mb_for=table,
        fit_now=_share_below(needs, memory_mb_now) if memory_mb_now else None,
        memory_mb=table[share],
        # Whether more than all of its vCPUs would help, nothing here can tell.
        cpus=min(wanted, cpus_now) if cpus_now else wanted,
        busy_median=quantile(busy, 50) if busy else 0.0,
        busy_most=most_busy,
    )


def _hungry(store: Store, listed: Mapping[str, Mapping[str, str]]) -> dict[str, list[CellUsage]]:
    """Step -> cells that ran out of memory in the newest runs and have no receipt."""
    most_memory_mb: dict[tuple[str, str], int] = {}
    for run_id in sorted(store.folders(layout.RUNS), reverse=True)[:RUNS_SEARCHED]:
        try:
            failed = read_failed(store, run_id)
        except NotInStore:
            continue
        for cell in failed:
            hungry = cell.reason is EndReason.OUT_OF_MEMORY and cell.memory_mb
            if hungry and cell.sample not in listed.get(cell.step, {}):
                place = (cell.step, cell.sample)
                most_memory_mb[place] = max(most_memory_mb.get(place, 0), cell.memory_mb)
    guesses: dict[str, list[CellUsage]] = {}
    for (step, _), had in most_memory_mb.items():
        guesses.setdefault(step, []).append(CellUsage.out_of_memory(had))
    return guesses


def _spread(keys: Sequence[str], most: int | None) -> Sequence[str]:
    """At most so many, evenly spread; always the same ones."""
    if most is None or len(keys) <= most:
        return keys
    return [keys[number * len(keys) // most] for number in range(most)]


def _read(store: Store, key: str) -> CellUsage | None:
    """What a cell took; None for a receipt that went meanwhile or tells nothing."""
    try:
        receipt = Receipt.from_json(store.get_json(key))
    except NotInStore:
        return None
    return usage_of(receipt)


def _share_below(values: Sequence[int], bound: int) -> float:
    return 100 * sum(value <= bound for value in values) / len(values)
