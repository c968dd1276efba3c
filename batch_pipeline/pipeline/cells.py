"""Gives every cell its fingerprint and state: the first pass of the planner, steps in order, a column a step.

A cell is done when a receipt with its current fingerprint is there and nothing that it reads is made again. What it
reads decides the rest: a blocked or unchosen input blocks it, a deferred one defers it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from batch_pipeline.pipeline.fingerprint import StepParts, cell_fingerprint, gather_part, source_part
from batch_pipeline.pipeline.plan import CellState, Conflict, Inventory, LiveJob, Selection, Why
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.pipeline.workflow import Graph, Node, Port, Source
from batch_pipeline.wire.errors import InvalidPlan
from batch_pipeline.wire.layout import COHORT

_MOVING = (CellState.TO_RUN, CellState.LIVE, CellState.DEFERRED)


class Cells:
    """Fingerprint and state of every cell, a column a step."""

    def __init__(
        self,
        graph: Graph,
        samples: tuple[str, ...],
        parts: Mapping[str, StepParts],
        inventory: Inventory,
        selection: Selection,
    ) -> None:
        self.graph = graph
        self.samples = samples
        self.inventory = inventory
        self.selection = selection
        self.digests = {step: part.digest() for step, part in parts.items()}
        self.states: dict[str, list[CellState]] = {}
        self.fingerprints: dict[str, list[str]] = {}
        self.why: dict[str, list[Why | None]] = {}
        self.blocked: dict[tuple[str, str], str] = {}
        self.conflicts: list[Conflict] = []
        self.missing: dict[str, tuple[str, ...]] = {}
        #: Native ids of live jobs whose samples no longer stand together.
        self.split: set[str] = set()
        #: Step -> sample -> the live job that has it, whether it did it already or not.
        self.live_of: dict[str, dict[str, LiveJob]] = {}
        for job in inventory.live:
            self.live_of.setdefault(job.step, {}).update(dict.fromkeys(job.samples, job))
        self._live_print = {
            (job.step, sample): fingerprint
            for job in inventory.live
            for sample, fingerprint in zip(job.samples, job.fingerprints, strict=True)
        }

    def add(self, node: Node) -> None:
        """Gives the cells of a step, whose upstream steps were added before, fingerprints and states."""
        gathers = node.scope is Scope.COHORT
        names = (COHORT,) if gathers else self.samples
        self.states[node.name] = states = [CellState.DONE] * len(names)
        why: list[Why | None] = [None] * len(names)
        self.why[node.name] = why
        self.fingerprints[node.name] = prints = list(self._gather(node) if gathers else self._prints(node))
        receipts = self.inventory.receipts.get(node.name, {})
        for i, name in enumerate(names):
            if not prints[i]:
                states[i] = self._stuck(node, name, i)
                continue
            have = receipts.get(name, ())
            states[i], why[i] = self._state(node, name, i, have)
            if states[i] is CellState.DONE and prints[i] not in have and have:
                prints[i] = have[-1]

    def _prints(self, node: Node) -> Iterator[str]:
        """Fingerprints of a step's cells; empty where something that it reads has none."""
        columns = [self._column(node, port, source) for port, source in node.inputs.items()]
        digest = self.digests[node.name]
        if not columns:
            yield from [cell_fingerprint(digest, ())] * len(self.samples)
            return
        for inputs in zip(*columns, strict=True):
            yield cell_fingerprint(digest, inputs) if all(inputs) else ""

    def _column(self, node: Node, port: str, source: Port | Source) -> Sequence[str]:
        if isinstance(source, Port):
            prints = self.fingerprints[source.task.name]
            if self.graph[source.task.name].scope is Scope.COHORT:
                return prints * len(self.samples)
            return prints
        key = f"{node.name}.{port}"
        sources = self.inventory.sources
        return [source_part(sources.get(sample, {}).get(key, ())) for sample in self.samples]

    def _gather(self, node: Node) -> tuple[str]:
        """The one fingerprint of a gather; empty while it cannot be known which samples it will have."""
        taken = self._taken(node)
        if taken is None:
            return ("",)
        inputs = []
        for source in node.inputs.values():
            if not isinstance(source, Port):
                raise InvalidPlan(f"The gather {node.name} reads a source; only steps of the samples have sources.")
            prints = self.fingerprints[source.task.name]
            if self.graph[source.task.name].scope is Scope.COHORT:
                inputs.append(prints[0])
            else:
                inputs.append(gather_part([(self.samples[i], prints[i]) for i in taken]))
        return (cell_fingerprint(self.digests[node.name], inputs) if all(inputs) else "",)

    def _taken(self, node: Node) -> list[int] | None:
        """Positions of the samples that a gather takes, or None: not yet (DEFERRED) or never (BLOCKED)."""
        columns = [self.states[step] for step in node.upstream if self.graph[step].scope is Scope.SAMPLE]
        usable = [i for i, cells in enumerate(zip(*columns, strict=True)) if all(map(_usable, cells))]
        lost = len(self.samples) - len(usable) if columns else 0
        if not lost or not columns:
            if self.selection.min_success < 1 and any(state in _MOVING for column in columns for state in column):
                return None
            return usable
        if self.selection.min_success >= 1 or len(usable) < self.selection.min_success * len(self.samples):
            self.blocked[(node.name, COHORT)] = (
                f"{lost} of {len(self.samples)} samples have no result for it; repair them, or give --min-success."
            )
            return None
        if any(state in _MOVING for column in columns for state in column):
            return None
        kept = set(usable)
        self.missing[node.name] = tuple(s for i, s in enumerate(self.samples) if i not in kept)
        return usable

    def _stuck(self, node: Node, name: str, position: int) -> CellState:
        """State of a cell without a fingerprint, with the sentence why."""
        if (node.name, name) in self.blocked:
            return CellState.BLOCKED
        upstream = self._read_states(node, position) if node.scope is Scope.SAMPLE else {}
        for step, state in upstream.items():
            if state is CellState.BLOCKED:
                self.blocked[(node.name, name)] = f"It needs {step}, which cannot run."
                return CellState.BLOCKED
        if node.scope is Scope.COHORT or CellState.DEFERRED in upstream.values():
            return CellState.DEFERRED if self.selection.takes(node.name, name) else CellState.SKIPPED
        self.blocked[(node.name, name)] = self.inventory.absent.get(name, "Its source file is not there.")
        return CellState.BLOCKED

    def _state(self, node: Node, name: str, position: int, have: tuple[str, ...]) -> tuple[CellState, Why | None]:
        """State of a cell with a fingerprint."""
        step, selection, fingerprint = node.name, self.selection, self.fingerprints[node.name][position]
        chosen = selection.takes(step, name)
        done = fingerprint in have or (selection.accept_code_changes and bool(have))
        live = self._live_print.get((step, name)) if self._live_print else None
        if live is not None:
            if live != fingerprint and chosen:
                self.conflicts.append(Conflict(run_id=self.live_of[step][name].run_id, step=step, sample=name))
            return (CellState.DONE if done else CellState.LIVE), None
        if done and not chosen:
            return CellState.DONE, None
        upstream = set(self._read_states(node, position).values())
        if done and not selection.force and upstream <= {CellState.DONE, CellState.BLOCKED, CellState.SKIPPED}:
            return CellState.DONE, None
        if not chosen:
            return CellState.SKIPPED, None
        if (step, name) in self.inventory.failed:
            self.blocked[(step, name)] = self.inventory.failed[(step, name)]
            return CellState.BLOCKED, None
        if done:
            return self._runnable(node, name, position, Why.FORCED if selection.force else Why.UPSTREAM)
        return self._runnable(node, name, position, Why.CHANGED if have else Why.NEVER_DONE)

    def _runnable(self, node: Node, name: str, position: int, why: Why) -> tuple[CellState, Why | None]:
        """State of a chosen cell that is not done, by those that it reads."""
        deferred = False
        for step, state in self._read_states(node, position).items():
            if state in (CellState.BLOCKED, CellState.SKIPPED):
                word = "cannot run" if state is CellState.BLOCKED else "is not done and was not chosen"
                self.blocked[(node.name, name)] = f"It needs {step}, which {word}."
                return CellState.BLOCKED, None
            deferred = deferred or state is CellState.DEFERRED
        return (CellState.DEFERRED, None) if deferred else (CellState.TO_RUN, why)

    def _read_states(self, node: Node, position: int) -> dict[str, CellState]:
        """Upstream step -> state of what the cell reads there: one cell, or for a gather the one that matters most."""
        found = {}
        for step in node.upstream:
            column = self.states[step]
            if self.graph[step].scope is Scope.COHORT:
                found[step] = column[0]
            elif node.scope is Scope.SAMPLE:
                found[step] = column[position]
            else:
                # `_taken` saw to it that blocked and skipped cells are not read.
                there = set(column)
                found[step] = next((state for state in _MATTERS if state in there), CellState.DONE)
        return found

    def defer(self) -> None:
        """Defers what waits for a live job that is not whole (`split`), and everything that reads from that."""
        for job in self.inventory.live:
            if job.native_id in self.split:
                below = self.graph.downstream(job.step) - {job.step}
                alive = self.states[job.step]
                for i, sample in enumerate(self.samples):
                    if alive[i] is CellState.LIVE and self.live_of[job.step].get(sample) is job:
                        self._defer_sample(below, i)
        for node in self.graph:
            column = self.states[node.name]
            for i, state in enumerate(column):
                if state is CellState.TO_RUN and CellState.DEFERRED in self._read_states(node, i).values():
                    column[i], self.why[node.name][i] = CellState.DEFERRED, None

    def _defer_sample(self, steps: Iterable[str], position: int) -> None:
        for step in steps:
            if self.graph[step].scope is Scope.SAMPLE and self.states[step][position] is CellState.TO_RUN:
                self.states[step][position], self.why[step][position] = CellState.DEFERRED, None


#: For a gather: the state of its inputs is the first of these that one of them has.
_MATTERS = (CellState.DEFERRED, CellState.TO_RUN, CellState.LIVE)


def _usable(state: CellState) -> bool:
    """Whether a cell will have a result if all goes well."""
    return state is CellState.DONE or state in _MOVING
