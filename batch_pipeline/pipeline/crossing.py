"""Chooses which rows share jobs where cells read cells of other rows, so that each waits for what it reads alone. Pure.

Batch knows an array that follows another index by index, and jobs that wait for a whole job: one failed child of that
fails all of them. So rows share an array only if the very same cells of other rows read them, and they read the very
same ones: the parts of one sample, or the two samples of a patient. Then a whole job is just what its dependents read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from batch_pipeline.pipeline.plan import CellState, Limits
from batch_pipeline.pipeline.rows import Rows
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.pipeline.workflow import Node

if TYPE_CHECKING:
    from batch_pipeline.pipeline.cells import Cells

#: Rows -> position -> what the row reads of other rows, and what reads it. Rows of equal neighbours share jobs.
Neighbours = Mapping[Rows, Mapping[int, frozenset[tuple[str, str, tuple[int, ...]]]]]


def is_between(cells: Cells, node: Node, step: str) -> bool:
    """Whether a step that a step reads has other rows, neither of them a gather: no array joins the two."""
    rows, above = cells.rows[node.name], cells.rows[step]
    return above is not rows and not rows.is_cohort and not above.is_cohort


def is_partly_chosen(cells: Cells, node: Node, position: int) -> bool:
    """Whether a cell is of a group of which some samples are not chosen."""
    members, chosen = cells.rows[node.name].samples_of(position), cells.selection.samples
    return node.scope is Scope.GROUP and chosen is not None and any(cells.samples[i] not in chosen for i in members)


def waits_between(cells: Cells, node: Node, position: int) -> bool:
    """Whether a cell reads a live cell of other rows."""
    between = (step for step in cells.reads(node, position) if is_between(cells, node, step))
    read = ((cells.columns[step].states, cells.rows_read(node, step, position)) for step in between)
    return any(states[at] is CellState.LIVE for states, positions in read for at in positions)


def crossing(cells: Cells) -> Iterator[tuple[Node, int, str, Sequence[int]]]:
    """Cells that run and read cells of other rows which run too: step, position, step read, positions read."""
    for node in cells.graph:
        between = [step for step in node.upstream if is_between(cells, node, step)]
        for i, state in enumerate(cells.columns[node.name].states if between else ()):
            for step in between if state is CellState.TO_RUN else ():
                read = cells.rows_read(node, step, i)
                if any(cells.columns[step].states[at] is CellState.TO_RUN for at in read):
                    yield node, i, step, read


def defer_crossing(cells: Cells) -> None:
    """Defers the cells that read cells of other rows which run in this plan, and all that reads from them."""
    waiting: dict[str, set[int]] = {}
    for node, i, _, _ in crossing(cells):
        waiting.setdefault(node.name, set()).add(i)
    for node in cells.graph if waiting else ():
        here = waiting.get(node.name, ())
        waits = [
            state is CellState.TO_RUN and (i in here or CellState.DEFERRED in cells.read_states(node, i).values())
            for i, state in enumerate(cells.columns[node.name].states)
        ]
        cells.set_deferred(node, waits)


def neighbours_of(cells: Cells) -> Neighbours:
    """The neighbours of each row that has any which run."""
    found: dict[Rows, dict[int, set[tuple[str, str, tuple[int, ...]]]]] = {}
    for node, position, step, read in crossing(cells):
        own, above = found.setdefault(cells.rows[node.name], {}), found.setdefault(cells.rows[step], {})
        own.setdefault(position, set()).add(("reads", step, tuple(read)))
        for at in read:
            above.setdefault(at, set()).add(("is read by", node.name, (position,)))
    return {rows: {at: frozenset(of) for at, of in by_row.items()} for rows, by_row in found.items()}


def form_in_words(cells: Cells, calls: int, limits: Limits, *, fits: bool) -> str:
    """How the plan joins cells of different rows, and why so: a sentence. `fits`: in jobs for single components."""
    steps = ", ".join(dict.fromkeys(node.name for node, _, _, _ in crossing(cells)))
    if fits:
        return (
            f"{steps}: jobs for single samples or groups, so that none waits for another: {counted(calls)} of at most"
            f" {limits.most_calls:,} (backend.most_calls)."
        )
    if calls > limits.most_calls:
        reason = f"{counted(calls)} where backend.most_calls is {limits.most_calls:,}"
    else:
        reason = f"more children than the queue may have at once ({limits.max_live_children:,})"
    return (
        f"{steps}: planned by this command when what they read is done, as jobs for single samples or groups would be"
        f" {reason}."
    )


def counted(calls: int) -> str:
    """`1 call`, `30 calls`."""
    return f"{calls:,} call{'s' * (calls != 1)}"
