"""Gives every cell its fingerprint and state: the planner's first pass, in topological order, a column a step.

A cell is done when its one receipt has its current fingerprint and nothing that it reads, however far up, is made
again. Two receipts prove nothing: a container removes the older ones before it publishes, so only one of them can vouch
for the files that are there. A retired receipt proves nothing either (`Inventory.retired`). What a cell reads decides
the rest: a blocked or unchosen input blocks it, a deferred one defers it. `Cells._decide` has the table (for which
this module is longer than others). Queries return values; `add` and `defer` alone store them.

A running array job is never split. Its cells are left to it until it ends, and nothing above them is made again before:
a running job could still read the old result, and publish what it made of it after the new one is there. Such cells are
deferred to a later wave.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from batch_pipeline.pipeline.decisions import (
    BEYOND,
    DEFERRED,
    DONE,
    LIVE,
    SKIPPED,
    TO_RUN,
    Decision,
    GatherInput,
    StepCells,
)
from batch_pipeline.pipeline.fingerprint import (
    StepParts,
    cell_fingerprint,
    columns_part,
    gather_part,
    missing_part,
    source_part,
)
from batch_pipeline.pipeline.former import FormerFingerprints
from batch_pipeline.pipeline.live_cells import index_live_cells
from batch_pipeline.pipeline.plan import CellState, Inventory, Retired, Selection, Why
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.pipeline.workflow import Graph, Node, Port, Source
from batch_pipeline.wire.errors import InvalidPlan
from batch_pipeline.wire.layout import COHORT

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
        self.live = index_live_cells(graph, samples, inventory.live)
        self._digests = {step: part.digest() for step, part in parts.items()}
        #: Of the steps that were added.
        self.columns: dict[str, StepCells] = {}
        self._gathers: dict[str, GatherInput] = {}
        self._former = FormerFingerprints(self, parts)
        #: Native ids of live jobs that no array of this plan can follow index by index; filled by `defer`.
        self.split: set[str] = set()

    def add(self, node: Node) -> None:
        """Gives the cells of a step, whose upstream steps were added before, fingerprints and states."""
        if node.scope is Scope.COHORT:
            self._gathers[node.name] = self._gather_input(node)
        self.columns[node.name] = self._column(node)

    @property
    def blocked(self) -> dict[tuple[str, str], str]:
        """(step, sample) of the blocked cells -> why."""
        columns = self.columns.items()
        return {(step, name): sentence for step, column in columns for name, sentence in column.blocked.items()}

    @property
    def missing(self) -> dict[str, tuple[str, ...]]:
        """Gather -> the samples that it does without."""
        return {step: gathered.missing for step, gathered in self._gathers.items() if gathered.missing}

    def names(self, node: Node) -> tuple[str, ...]:
        """The samples of a step's cells."""
        return (COHORT,) if node.scope is Scope.COHORT else self.samples

    def _column(self, node: Node) -> StepCells:
        receipts = self.inventory.receipts.get(node.name, {})
        # What is done by its fingerprint and by nothing else needs no second look; most cells of most plans are.
        is_plain = not (self.selection.force or self.selection.accept_code_changes or node.name in self.live.jobs)
        states: list[CellState] = []
        why: list[Why | None] = []
        fingerprints: list[str] = []
        moving: list[bool] = []
        blocked: dict[str, str] = {}
        is_beyond = False
        present = list(self._wanted(node))
        wanted = self._former.counting(node, self.names(node), present)
        cells = zip(self.names(node), wanted, self._inputs_move(node), strict=True)
        for i, (name, fingerprint, moves) in enumerate(cells):
            have = receipts.get(name, ())
            if is_plain and not moves and len(have) == 1 and have[0] == fingerprint:
                states.append(CellState.DONE)
                why.append(None)
                fingerprints.append(fingerprint)
                moving.append(False)
                continue
            decision = self._decide(node, name, i, fingerprint, have, moves=moves)
            state = decision.state
            states.append(state)
            why.append(self._why(node, name, fingerprint, have) if state is CellState.TO_RUN else None)
            fingerprints.append(have[0] if state is CellState.DONE else fingerprint)
            moving.append(state is not CellState.DONE and (moves or state in _MOVING))
            if state is CellState.BLOCKED:
                blocked[name] = decision.sentence
            is_beyond |= decision.is_beyond
        return StepCells(
            states=states,
            why=why,
            fingerprints=fingerprints,
            chain=_chain(present, wanted, fingerprints),
            moving=moving,
            blocked=blocked,
            is_beyond=is_beyond,
        )

    def _inputs_move(self, node: Node) -> Sequence[bool]:
        """For each cell of a step whether something that it reads, however far up, is on its way or made again."""
        gathers = [step for step in node.upstream if self.graph[step].scope is Scope.COHORT]
        columns = [self.columns[step].moving for step in node.upstream if step not in gathers]
        moves = any(self.columns[step].moving[0] for step in gathers)
        if node.scope is Scope.COHORT:
            return [moves or any(column[i] for column in columns for i in self.gathered_by(node.name))]
        if moves or not columns:
            return [moves] * len(self.samples)
        return columns[0] if len(columns) == 1 else [any(cells) for cells in zip(*columns, strict=True)]

    def _wanted(self, node: Node) -> Iterable[str]:
        """The fingerprints that a step's cells should have; empty where something that a cell reads has none."""
        chain = {step: column.chain for step, column in self.columns.items()}
        wanted = self.fingerprints(node, self._digests[node.name], chain)
        if not self.selection.accept_code_changes or node.name not in self.live.jobs:
            return wanted
        live, step = self.live.fingerprints, node.name
        return [live.get((step, name)) or own for name, own in zip(self.names(node), wanted, strict=True)]

    def fingerprints(self, node: Node, digest: str, chain: Mapping[str, Sequence[str]]) -> Sequence[str]:
        """Fingerprints of a step's cells, from its digest and the fingerprints of the steps above by name."""
        if node.scope is Scope.COHORT:
            return [self._gather_fingerprint(node, digest, chain)]
        columns = [self._input_parts(node, port, source, chain) for port, source in node.inputs.items()]
        if node.name in self.inventory.columns:
            columns.append(self._columns_parts(node))
        if not columns:
            return [cell_fingerprint(digest, ())] * len(self.samples)
        return [cell_fingerprint(digest, inputs) if all(inputs) else "" for inputs in zip(*columns, strict=True)]

    def _input_parts(
        self, node: Node, port: str, source: Port | Source, chain: Mapping[str, Sequence[str]]
    ) -> Sequence[str]:
        """What a port adds to the fingerprint of each cell."""
        if isinstance(source, Port):
            fingerprints = chain[source.task.name]
            if self.graph[source.task.name].scope is Scope.COHORT:
                return [fingerprints[0]] * len(self.samples)
            return fingerprints
        key = f"{node.name}.{port}"
        sources = self.inventory.sources
        return [source_part(sources.get(sample, {}).get(key, ())) for sample in self.samples]

    def _columns_parts(self, node: Node) -> Sequence[str]:
        """What the columns that a step declares add to the fingerprint of each cell."""
        values = self.inventory.columns[node.name]
        parts = {id(one): columns_part(one) for one in {id(one): one for one in values}.values()}
        return [parts[id(one)] for one in values]

    def _gather_fingerprint(self, node: Node, digest: str, chain: Mapping[str, Sequence[str]]) -> str:
        """The one fingerprint of a gather; empty while it cannot be known which samples it will have."""
        gathered = self._gathers[node.name]
        if gathered.positions is None:
            return ""
        inputs = []
        for source in node.inputs.values():
            if not isinstance(source, Port):
                raise InvalidPlan(f"The gather {node.name} reads a source; only steps of the samples have sources.")
            fingerprints = chain[source.task.name]
            if self.graph[source.task.name].scope is Scope.COHORT:
                inputs.append(fingerprints[0])
            else:
                inputs.append(gather_part([(self.samples[i], fingerprints[i]) for i in gathered.positions]))
        if node.name in self.inventory.columns:
            parts = self._columns_parts(node)
            inputs.append(gather_part([(self.samples[i], parts[i]) for i in gathered.positions]))
        if gathered.missing:
            # A step may tell of them in what it makes.
            inputs.append(missing_part(gathered.missing))
        return cell_fingerprint(digest, inputs) if all(inputs) else ""

    def _gather_input(self, node: Node) -> GatherInput:
        columns = [self.columns[step].states for step in node.upstream if self.graph[step].scope is not Scope.COHORT]
        if not columns:
            return GatherInput(positions=[])
        usable = [i for i, cells in enumerate(zip(*columns, strict=True)) if _STOPPED.isdisjoint(cells)]
        kept = frozenset(usable)
        missing = tuple(sample for i, sample in enumerate(self.samples) if i not in kept)
        if missing and len(usable) < self._needed():
            return GatherInput(positions=None, held=self._too_few(missing))
        if self.selection.min_success < 1 and any(not _MOVING.isdisjoint(column) for column in columns):
            return GatherInput(positions=None, held=DEFERRED)
        return GatherInput(positions=usable, missing=missing)

    def _needed(self) -> int:
        """Samples that a gather needs. 7 % of 100 are 7, whatever 0.07 * 100 is in binary."""
        return math.ceil(self.selection.min_success * len(self.samples) - 1e-9)

    def _too_few(self, missing: Sequence[str]) -> Decision:
        if self.selection.samples is not None and self.selection.samples.isdisjoint(missing):
            return BEYOND
        have = f"{len(missing)} of {len(self.samples)} samples have no result for it"
        if self.selection.min_success < 1:
            have += f", and --min-success asks for {self._needed()}"
        remedy = "a lower --min-success" if self.selection.min_success < 1 else "--min-success"
        return Decision(state=CellState.BLOCKED, sentence=f"{have}; repair them, or give {remedy}.")

    def _decide(
        self, node: Node, name: str, position: int, fingerprint: str, have: tuple[str, ...], *, moves: bool
    ) -> Decision:
        """Decides the state of a cell by the first row that fits.

        An input is a cell that this one reads: of the same sample, or a gather; those of a gather are its samples'.

        | live | settled | proven | chosen | and                                                     | state    |
        |------|---------|--------|--------|---------------------------------------------------------|----------|
        | yes  | yes     | yes    |        | the receipt is of this very fingerprint                 | DONE     |
        | yes  |         |        | yes    | an input is TO_RUN or DEFERRED                          | DEFERRED |
        | yes  |         |        |        |                                                         | LIVE     |
        | no   | yes     | yes    |        |                                                         | DONE     |
        | no   |         |        | no     |                                                         | SKIPPED  |
        | no   |         |        | yes    | it failed in this very command                          | BLOCKED  |
        | no   |         |        | yes    | an input is BLOCKED                                     | BLOCKED  |
        | no   |         |        | yes    | an input is SKIPPED: all such are beyond what is chosen | SKIPPED  |
        | no   |         |        | yes    | an input is SKIPPED                                     | BLOCKED  |
        | no   |         |        | yes    | it is a gather, and held (`_gather_input`)              | as held  |
        | no   |         |        | yes    | a source file is not there                              | BLOCKED  |
        | no   |         |        | yes    | an input is DEFERRED                                    | DEFERRED |
        | no   |         |        | yes    | the cell of a live job depends on it                    | DEFERRED |
        | no   |         |        | yes    |                                                         | TO_RUN   |

        live: a live job has it, whatever the fingerprint (`conflicts.py`), and the cell has one.
        settled: nothing that it reads, however far up, is on its way or made again (`moves`), and it is not forced.
        proven: its one receipt is of its fingerprint, or of other code where that is accepted (`_is_proven`).
        """
        chosen = self.selection.takes(node.name, name)
        settled = not moves and not self.is_forced(node.name, name)
        if fingerprint and (node.name, name) in self.live.fingerprints:
            if settled and have == (fingerprint,):
                return DONE
            waits = chosen and not _REMADE.isdisjoint(self.read_states(node, position).values())
            return DEFERRED if waits else LIVE
        if settled and self._is_proven(node, fingerprint, have):
            return DONE
        if not chosen:
            return SKIPPED
        inputs = self.read_states(node, position)
        stop = self._stop(node, name, fingerprint, have, inputs)
        if stop is not None:
            return stop
        if CellState.DEFERRED in inputs.values() or name in self.live.ancestors.get(node.name, ()):
            return DEFERRED
        return TO_RUN

    def _stop(
        self, node: Node, name: str, fingerprint: str, have: tuple[str, ...], inputs: Mapping[str, CellState]
    ) -> Decision | None:
        """Decides a chosen cell that cannot run now: the middle rows of `_decide`. None: it can."""
        if (node.name, name) in self.inventory.failed:
            return Decision(state=CellState.BLOCKED, sentence=self.inventory.failed[node.name, name])
        stops = {step: state for step, state in inputs.items() if state in _STOPPED}
        by_state = {state: step for step, state in stops.items()}
        if CellState.BLOCKED in by_state:
            sentence = f"It needs {by_state[CellState.BLOCKED]}, which cannot run."
            return Decision(state=CellState.BLOCKED, sentence=sentence)
        if stops and all(self.columns[step].is_beyond for step in stops):
            return BEYOND
        if stops:
            sentence = f"It needs {by_state[CellState.SKIPPED]}, which is not done and was not chosen."
            return Decision(state=CellState.BLOCKED, sentence=sentence)
        if node.name in self._gathers and (held := self._gathers[node.name].held) is not None:
            return held
        if not fingerprint and self._lacks_source(node, name):
            hint = " It has an older result: --accept-code-changes trusts it." if have else ""
            sentence = self.inventory.absent.get(name, "Its source file is not there.") + hint
            return Decision(state=CellState.BLOCKED, sentence=sentence)
        return None

    def gathered_by(self, step: str) -> Sequence[int]:
        """Positions of the samples that a gather reads; all where that is not known."""
        positions = self._gathers[step].positions
        return range(len(self.samples)) if positions is None else positions

    def is_forced(self, step: str, sample: str) -> bool:
        """Whether the cell must run, done or not: once a command."""
        chosen = self.selection.force and self.selection.takes(step, sample)
        return chosen and (step, sample) not in self.inventory.made

    def _why(self, node: Node, name: str, fingerprint: str, have: tuple[str, ...]) -> Why:
        """Why a cell runs."""
        if len(have) > 1:
            return Why.IN_DOUBT
        if self._is_proven(node, fingerprint, have):
            return Why.FORCED if self.is_forced(node.name, name) else Why.UPSTREAM
        if have:
            return Why.CHANGED
        retired = self.inventory.retired.get(node.name, _NO_RECEIPTS).get(name, {})
        is_untrue = name in self.inventory.untrue.get(node.name, _NO_RECEIPTS)
        if is_untrue or any(one.untrue for one in retired.values()):
            return Why.UNTRUE
        return Why.RETIRED if retired else Why.NEVER_DONE

    def _is_proven(self, node: Node, fingerprint: str, have: tuple[str, ...]) -> bool:
        """Whether the receipt of a cell proves it done, unless what it reads is made again."""
        if len(have) != 1:
            return False
        trusted = self.selection.accept_code_changes and (node.scope is not Scope.COHORT or self._is_of_these(node))
        return trusted or have[0] == fingerprint

    def _is_of_these(self, node: Node) -> bool:
        """Whether the result that a gather has was made of the samples that it would read; of others it hides some."""
        positions = self._gathers[node.name].positions
        if positions is None:
            return False
        return self.inventory.gathered.get(node.name, frozenset()) == {self.samples[i] for i in positions}

    def _lacks_source(self, node: Node, name: str) -> bool:
        sources = self.inventory.sources.get(name, {})
        return any(not sources.get(f"{node.name}.{port}") for port in node.sources)

    def read_states(self, node: Node, position: int) -> dict[str, CellState]:
        """Upstream step -> state of what the cell reads there: one cell, or for a gather the one that matters most."""
        read = {}
        for step in node.upstream:
            states = self.columns[step].states
            if self.graph[step].scope is Scope.COHORT:
                read[step] = states[0]
            elif node.scope is not Scope.COHORT:
                read[step] = states[position]
            else:
                # `_gather_input` saw to it that blocked and skipped cells are not read.
                there = set(states)
                read[step] = next((state for state in _MATTERS if state in there), CellState.DONE)
        return read

    def defer(self, split: AbstractSet[str]) -> None:
        """Defers what waits for live jobs (native ids) that no array can follow, and all that reads from that."""
        self.split |= split
        for node in self.graph:
            column = self.columns[node.name]
            waits = [
                state is CellState.TO_RUN
                and (self._waits_for_split(node, i) or CellState.DEFERRED in self.read_states(node, i).values())
                for i, state in enumerate(column.states)
            ]
            if any(waits):
                states = [CellState.DEFERRED if w else state for w, state in zip(waits, column.states, strict=True)]
                why = [None if w else reason for w, reason in zip(waits, column.why, strict=True)]
                self.columns[node.name] = replace(column, states=states, why=why)

    def _waits_for_split(self, node: Node, position: int) -> bool:
        if node.scope is Scope.COHORT:
            return False  # It waits for whole jobs.
        sample = self.samples[position]
        return any(
            self.live.jobs[step][sample].native_id in self.split
            for step in node.upstream
            if self.graph[step].scope is not Scope.COHORT and self.columns[step].states[position] is CellState.LIVE
        )


def _chain(present: Sequence[str], counting: Sequence[str], kept: Sequence[str]) -> list[str]:
    """Fingerprints for what reads the cells: a result that counts by a former one goes by its present one."""
    return [own if held == counts else held for own, counts, held in zip(present, counting, kept, strict=True)]
