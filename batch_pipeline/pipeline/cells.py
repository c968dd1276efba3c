"""Gives every cell its fingerprint and state: the first pass of the planner, steps in order, a column a step.

A cell is done when its one receipt has its current fingerprint and nothing that it reads, however far up, is made
again. Two receipts prove nothing: a container removes the older ones before it publishes, so only one of them can vouch
for the files that are there. A retired receipt proves nothing either (`Inventory.retired`). What a cell reads decides
the rest: a blocked or unchosen input blocks it, a deferred one defers it.

A running array job is never split. Its cells are left to it until it ends, and nothing above them is made again before:
a running job could still read the old result, and publish what it made of it after the new one is there. Such cells are
deferred to a later wave.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from batch_pipeline.pipeline.fingerprint import StepParts, cell_fingerprint, gather_part, missing_part, source_part
from batch_pipeline.pipeline.plan import CellState, Conflict, Inventory, LiveJob, Retired, Selection, Why
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.pipeline.workflow import Graph, Node, Port, Source
from batch_pipeline.wire.errors import InvalidPlan
from batch_pipeline.wire.layout import COHORT

#: A cell's state, why it runs, and the fingerprint that its readers see.
_Decision = tuple[CellState, Why | None, str]

_MOVING = frozenset({CellState.TO_RUN, CellState.LIVE, CellState.DEFERRED})
_STOPPED = frozenset({CellState.BLOCKED, CellState.SKIPPED})
_REMADE = frozenset({CellState.TO_RUN, CellState.DEFERRED})
_NO_RECEIPTS: Mapping[str, Mapping[str, Retired]] = {}
#: For a gather: the state of its inputs is the first of these that one of them has.
_MATTERS = (CellState.DEFERRED, CellState.TO_RUN, CellState.LIVE)


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
        self.missing: dict[str, tuple[str, ...]] = {}
        #: Native ids of live jobs that no array of this plan can follow index by index.
        self.split: set[str] = set()
        #: Step -> sample -> the live job that has it (the last that was sent), whether it did it already or not.
        self.live_of: dict[str, dict[str, LiveJob]] = {}
        for job in inventory.live:
            self.live_of.setdefault(job.step, {}).update(dict.fromkeys(job.samples, job))
        self._live_print = {
            (job.step, sample): fingerprint
            for job in inventory.live
            for sample, fingerprint in zip(job.samples, job.fingerprints, strict=True)
        }
        self._readers = {node.name: [other for other in graph if node.name in other.upstream] for node in graph}
        #: Step -> samples of the cells that some live job is below.
        self._above_live = self._find_above_live() if inventory.live else {}
        #: Step -> whether each cell, or anything that it reads, is on its way or is to be made again.
        self._moving: dict[str, list[bool]] = {}
        #: Gather -> positions of the samples that it takes, where that is known.
        self._takes: dict[str, list[int]] = {}
        #: Gathers that cannot run now: what they are instead, and the sentence if they are blocked.
        self._held: dict[str, tuple[CellState, str]] = {}
        #: Chosen gathers of samples of which some were not chosen, and what reads from them: not chosen either.
        self._beyond: set[str] = set()
        #: Node and position of cells that a live job makes differently than they should be now.
        self._clashes: list[tuple[Node, int]] = []

    def add(self, node: Node) -> None:
        """Gives the cells of a step, whose upstream steps were added before, fingerprints and states."""
        gathers = node.scope is Scope.COHORT
        names = (COHORT,) if gathers else self.samples
        wanted = (self._gather(node),) if gathers else self._prints(node)
        receipts = self.inventory.receipts.get(node.name, {})
        inputs_move = self._inputs_move(node)
        # What is done by its fingerprint and by nothing else needs no second look; most cells of most plans are.
        is_plain = not (self.selection.force or self.selection.accept_code_changes or node.name in self.live_of)
        self.states[node.name] = states = []
        self.why[node.name] = why = []
        self.fingerprints[node.name] = prints = []
        self._moving[node.name] = moving = []
        for i, (name, fingerprint, moves) in enumerate(zip(names, wanted, inputs_move, strict=True)):
            have = receipts.get(name, ())
            if is_plain and not moves and len(have) == 1 and have[0] == fingerprint:
                state, reason = CellState.DONE, None
            else:
                state, reason, fingerprint = self._decide(node, name, i, fingerprint, have, moves)
            states.append(state)
            why.append(reason)
            prints.append(fingerprint)
            moving.append(state in _MOVING or (moves and state is not CellState.DONE))

    def _inputs_move(self, node: Node) -> Sequence[bool]:
        """For each cell of a step whether something that it reads, however far up, is on its way or made again."""
        gathers = [step for step in node.upstream if self.graph[step].scope is Scope.COHORT]
        columns = [self._moving[step] for step in node.upstream if step not in gathers]
        moves = any(self._moving[step][0] for step in gathers)
        if node.scope is Scope.COHORT:
            return [moves or any(column[i] for column in columns for i in self.taken_by(node.name))]
        if moves or not columns:
            return [moves] * len(self.samples)
        return columns[0] if len(columns) == 1 else [any(cells) for cells in zip(*columns, strict=True)]

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

    def _gather(self, node: Node) -> str:
        """The one fingerprint of a gather; empty while it cannot be known which samples it will have."""
        taken = self._taken(node)
        if taken is None:
            return ""
        self._takes[node.name] = taken
        inputs = []
        for source in node.inputs.values():
            if not isinstance(source, Port):
                raise InvalidPlan(f"The gather {node.name} reads a source; only steps of the samples have sources.")
            prints = self.fingerprints[source.task.name]
            if self.graph[source.task.name].scope is Scope.COHORT:
                inputs.append(prints[0])
            else:
                inputs.append(gather_part([(self.samples[i], prints[i]) for i in taken]))
        if lost := self.missing.get(node.name):
            # A step may tell of them in what it makes.
            inputs.append(missing_part(lost))
        return cell_fingerprint(self.digests[node.name], inputs) if all(inputs) else ""

    def _taken(self, node: Node) -> list[int] | None:
        """Positions of the samples that a gather takes, or None: it is held, `_held` says how."""
        columns = [self.states[step] for step in node.upstream if self.graph[step].scope is not Scope.COHORT]
        if not columns:
            return []
        usable = [i for i, cells in enumerate(zip(*columns, strict=True)) if _STOPPED.isdisjoint(cells)]
        kept = frozenset(usable)
        lost = tuple(sample for i, sample in enumerate(self.samples) if i not in kept)
        if lost and len(usable) < self._needed():
            self._held[node.name] = self._too_few(lost)
            return None
        if self.selection.min_success < 1 and any(not _MOVING.isdisjoint(column) for column in columns):
            self._held[node.name] = (CellState.DEFERRED, "")
            return None
        if lost:
            self.missing[node.name] = lost
        return usable

    def _needed(self) -> int:
        """Samples that a gather needs. 7 % of 100 are 7, whatever 0.07 * 100 is in binary."""
        return math.ceil(self.selection.min_success * len(self.samples) - 1e-9)

    def _too_few(self, lost: Sequence[str]) -> tuple[CellState, str]:
        if self.selection.samples is not None and self.selection.samples.isdisjoint(lost):
            return CellState.SKIPPED, ""
        have = f"{len(lost)} of {len(self.samples)} samples have no result for it"
        if self.selection.min_success < 1:
            have += f", and --min-success asks for {self._needed()}"
        remedy = "a lower --min-success" if self.selection.min_success < 1 else "--min-success"
        return CellState.BLOCKED, f"{have}; repair them, or give {remedy}."

    def _decide(
        self, node: Node, name: str, position: int, fingerprint: str, have: tuple[str, ...], moves: bool
    ) -> _Decision:
        """What becomes of a cell with these receipts; its fingerprint is empty where an input has none.

        `moves`: something that it reads is on its way or made again.
        """
        chosen, forced = self.selection.takes(node.name, name), self.is_forced(node.name, name)
        live = self._live_print.get((node.name, name), "")
        if live and self.selection.accept_code_changes:
            fingerprint = live
        if live and fingerprint:
            if live != fingerprint:
                self._clashes.append((node, position))
            if have == (fingerprint,) and not moves and not forced:
                return CellState.DONE, None, fingerprint
            waits = chosen and not _REMADE.isdisjoint(self._read_states(node, position).values())
            return (CellState.DEFERRED if waits else CellState.LIVE), None, fingerprint
        kept = self._kept(node, fingerprint, have)
        if kept and not moves and not forced:
            return CellState.DONE, None, kept
        if not chosen:
            return CellState.SKIPPED, None, fingerprint
        read = self._read_states(node, position)
        state, sentence = self._runnable(node, name, fingerprint, read, have)
        if state is CellState.BLOCKED:
            self.blocked[node.name, name] = sentence
        elif state is CellState.TO_RUN and name in self._above_live.get(node.name, ()):
            state = CellState.DEFERRED
        why = self._why(node.name, name, kept, have, forced=forced) if state is CellState.TO_RUN else None
        return state, why, fingerprint

    def taken_by(self, gather: str) -> Sequence[int]:
        """Positions of the samples that a gather takes; all where that is not known."""
        return self._takes.get(gather, range(len(self.samples)))

    def is_forced(self, step: str, sample: str) -> bool:
        """Whether the cell must run, done or not: once a command."""
        chosen = self.selection.force and self.selection.takes(step, sample)
        return chosen and (step, sample) not in self.inventory.made

    def _why(self, step: str, sample: str, kept: str, have: tuple[str, ...], *, forced: bool) -> Why:
        inventory = self.inventory
        if kept:
            return Why.FORCED if forced else Why.UPSTREAM
        if len(have) > 1:
            return Why.IN_DOUBT
        if have:
            return Why.CHANGED
        retired = inventory.retired.get(step, _NO_RECEIPTS).get(sample, {})
        if sample in inventory.untrue.get(step, _NO_RECEIPTS) or any(one.untrue for one in retired.values()):
            return Why.UNTRUE
        return Why.RETIRED if retired else Why.NEVER_DONE

    def _kept(self, node: Node, fingerprint: str, have: tuple[str, ...]) -> str:
        """Fingerprint of the receipt that proves the cell done, or empty."""
        if len(have) != 1:
            return ""
        trusted = self.selection.accept_code_changes and (node.scope is not Scope.COHORT or self._is_of_these(node))
        return have[0] if trusted or have[0] == fingerprint else ""

    def _is_of_these(self, gather: Node) -> bool:
        """Whether the result that a gather has was made of the samples that it would take; of others it hides some."""
        taken = self._takes.get(gather.name)
        if taken is None:
            return False
        return self.inventory.gathered.get(gather.name, frozenset()) == {self.samples[i] for i in taken}

    def _runnable(
        self, node: Node, name: str, fingerprint: str, read: Mapping[str, CellState], have: tuple[str, ...]
    ) -> tuple[CellState, str]:
        """State of a chosen cell that is to be made, by what it reads; with the sentence if it is blocked."""
        if (node.name, name) in self.inventory.failed:
            return CellState.BLOCKED, self.inventory.failed[node.name, name]
        stops = {state: step for step, state in read.items() if state in _STOPPED}
        if CellState.BLOCKED in stops:
            return CellState.BLOCKED, f"It needs {stops[CellState.BLOCKED]}, which cannot run."
        if stops and self._beyond.issuperset(step for step, state in read.items() if state in _STOPPED):
            self._beyond.add(node.name)
            return CellState.SKIPPED, ""
        if stops:
            return CellState.BLOCKED, f"It needs {stops[CellState.SKIPPED]}, which is not done and was not chosen."
        if node.name in self._held:
            if self._held[node.name][0] is CellState.SKIPPED:
                self._beyond.add(node.name)
            return self._held[node.name]
        if not fingerprint and self._lacks_source(node, name):
            hint = " It has an older result: --accept-code-changes trusts it." if have else ""
            return CellState.BLOCKED, self.inventory.absent.get(name, "Its source file is not there.") + hint
        return (CellState.DEFERRED if self._is_deferred(node, read) else CellState.TO_RUN), ""

    def _is_deferred(self, node: Node, read: Mapping[str, CellState]) -> bool:
        return CellState.DEFERRED in read.values() or self._held.get(node.name) == (CellState.DEFERRED, "")

    def _lacks_source(self, node: Node, name: str) -> bool:
        sources = self.inventory.sources.get(name, {})
        return any(not sources.get(f"{node.name}.{port}") for port in node.sources)

    def _find_above_live(self) -> dict[str, frozenset[str]]:
        """Step -> samples (COHORT for a gather) of the cells that a live job's cell depends on."""
        above: dict[str, frozenset[str]] = {}
        everybody = frozenset(self.samples)
        live = self._find_running()
        for node in reversed(self.graph.nodes):
            names: set[str] = set()
            for reader in self._readers[node.name]:
                below = above[reader.name].union(live.get(reader.name, ()))
                if below and node.scope is Scope.COHORT:
                    names.add(COHORT)
                else:
                    names |= everybody if COHORT in below else below
            above[node.name] = frozenset(names)
        return above

    def _find_running(self) -> dict[str, set[str]]:
        """Step -> samples whose cell a live job may still make: not where it, or a gather that it waits for, failed."""
        running: dict[str, set[str]] = {}
        #: Run and step of jobs of which a child failed: no job that waits for all of them will run.
        failed = {(job.run_id, job.step) for job in self.inventory.live if job.ended}
        for node in self.graph:
            whole = [
                step for step in node.upstream if node.scope is Scope.COHORT or self.graph[step].scope is Scope.COHORT
            ]
            for job in self.inventory.live:
                if job.step == node.name and failed.isdisjoint((job.run_id, step) for step in whole):
                    running.setdefault(node.name, set()).update(set(job.samples) - job.ended)
                elif job.step == node.name:
                    failed.add((job.run_id, node.name))
        return running

    def _read_states(self, node: Node, position: int) -> dict[str, CellState]:
        """Upstream step -> state of what the cell reads there: one cell, or for a gather the one that matters most."""
        found = {}
        for step in node.upstream:
            column = self.states[step]
            if self.graph[step].scope is Scope.COHORT:
                found[step] = column[0]
            elif node.scope is not Scope.COHORT:
                found[step] = column[position]
            else:
                # `_taken` saw to it that blocked and skipped cells are not read.
                there = set(column)
                found[step] = next((state for state in _MATTERS if state in there), CellState.DONE)
        return found

    def defer(self) -> None:
        """Defers what waits for a live job that no array can follow (`split`), and everything that reads from that."""
        for node in self.graph:
            column = self.states[node.name]
            for i, state in enumerate(column):
                if state is not CellState.TO_RUN:
                    continue
                if self._waits_for_split(node, i) or CellState.DEFERRED in self._read_states(node, i).values():
                    column[i], self.why[node.name][i] = CellState.DEFERRED, None

    def _waits_for_split(self, node: Node, position: int) -> bool:
        if node.scope is Scope.COHORT:
            return False  # It waits for whole jobs.
        sample = self.samples[position]
        return any(
            self.live_of[step][sample].native_id in self.split
            for step in node.upstream
            if self.graph[step].scope is not Scope.COHORT and self.states[step][position] is CellState.LIVE
        )

    def conflicts(self) -> tuple[Conflict, ...]:
        """Cells that a live job makes differently, where that touches what was chosen."""
        found = []
        for node, position in self._clashes:
            sample = COHORT if node.scope is Scope.COHORT else self.samples[position]
            if self.selection.takes(node.name, sample) or self._touches(node, position):
                run_id = self.live_of[node.name][sample].run_id
                found.append(Conflict(run_id=run_id, step=node.name, sample=sample))
        return tuple(found)

    def _touches(self, node: Node, position: int) -> bool:
        """Whether a cell that is to run makes what this one reads, or reads what it makes."""
        touching = set(self._read_states(node, position).values())
        for reader in self._readers[node.name]:
            column = self.states[reader.name]
            one_to_one = Scope.COHORT not in (reader.scope, node.scope)
            touching.update(column[position : position + 1] if one_to_one else column)
        return not _REMADE.isdisjoint(touching)
