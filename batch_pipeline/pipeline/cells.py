"""Gives every cell its fingerprint and state: the planner's first pass, in topological order, a column a step.

A cell is done when its one receipt has its current fingerprint and nothing that it reads, however far up, is made
again. Two receipts prove nothing: a container removes the older ones before it publishes, so only one of them can vouch
for the files that are there. A retired receipt proves nothing either (`Inventory.retired`). What a cell reads decides
the rest: a blocked or unchosen input blocks it, a deferred one defers it. `Cells._decide` has the table (for which
this module is longer than others). Queries return values; `add` and `defer` alone store them.

A running array job is never split. Its cells are left to it until it ends, and nothing above them is made again before:
a running job could still read the old result, and publish what it made of it after the new one is there. Such cells are
deferred to a later plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from batch_pipeline.pipeline.cell_inputs import excluded_port, fingerprints_of, lacks_source
from batch_pipeline.pipeline.choices import Choices, choices_of
from batch_pipeline.pipeline.crossing import is_partly_chosen, waits_between
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
from batch_pipeline.pipeline.fingerprint import StepParts
from batch_pipeline.pipeline.former import FormerFingerprints
from batch_pipeline.pipeline.gather_input import gather_input_of
from batch_pipeline.pipeline.live_cells import index_live_cells
from batch_pipeline.pipeline.plan import CellState, Inventory, Retired, Selection, Why
from batch_pipeline.pipeline.rows import Rows, rows_by_step
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.pipeline.workflow import Graph, Node, Port

_MOVING = frozenset({CellState.TO_RUN, CellState.LIVE, CellState.DEFERRED})
_ON_THEIR_WAY = frozenset({CellState.TO_RUN, CellState.LIVE})
_STOPPED = frozenset({CellState.BLOCKED, CellState.SKIPPED})
_REMADE = frozenset({CellState.TO_RUN, CellState.DEFERRED})
_NO_RECEIPTS: Mapping[str, Mapping[str, Retired]] = {}
_STOPS = (CellState.BLOCKED, CellState.SKIPPED)
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
        remade: AbstractSet[tuple[str, str]] = frozenset(),
    ) -> None:
        self.graph = graph
        self.samples = samples
        self.inventory = inventory
        self.selection = selection
        #: (step, sample) of cells that must run, chosen or not: what reads their removed files is to run.
        self.remade = remade
        #: Step -> its rows.
        self.rows = rows_by_step(graph, samples, inventory.rows)
        self._choosers = {step: self.takes if rows.members else selection.takes for step, rows in self.rows.items()}
        self.live = index_live_cells(graph, self.rows, inventory.live)
        #: Step -> digest of its part.
        self.digests = {step: part.digest() for step, part in parts.items()}
        #: Of the steps that were added.
        self.columns: dict[str, StepCells] = {}
        #: Of those of them whose cells do not all read the same.
        self.choices: dict[str, Choices] = {}
        #: Gather -> the samples that it reads.
        self.gathers: dict[str, GatherInput] = {}
        self.parts = parts
        self._former = FormerFingerprints(self, parts)
        #: Native ids of live jobs that no array of this plan can follow index by index; filled by `defer`.
        self.split: set[str] = set()

    def add(self, node: Node) -> None:
        """Gives the cells of a step, whose upstream steps were added before, fingerprints and states."""
        choices = choices_of(self.graph, node, self.samples, self.inventory.excluded)
        if choices is not None:
            self.choices[node.name] = choices
        if node.scope is Scope.COHORT:
            self.gathers[node.name] = gather_input_of(self, node)
        self.columns[node.name] = self._column(node)

    @property
    def blocked(self) -> dict[tuple[str, str], str]:
        """(step, sample) of the blocked cells -> why."""
        columns = self.columns.items()
        return {(step, name): sentence for step, column in columns for name, sentence in column.blocked.items()}

    @property
    def missing(self) -> dict[str, tuple[str, ...]]:
        """Gather -> the samples that it does without."""
        return {step: gathered.missing for step, gathered in self.gathers.items() if gathered.missing}

    @property
    def excluded(self) -> dict[str, tuple[str, ...]]:
        """Gather -> the samples of which one of its ports has nothing."""
        return {step: gathered.excluded for step, gathered in self.gathers.items() if gathered.excluded}

    def reads(self, node: Node, position: int) -> tuple[str, ...]:
        """The steps that a cell reads from; those from which a gather reads the results of a sample."""
        choices = self.choices.get(node.name)
        return node.upstream if choices is None else choices.steps[position]

    def gathered_cells(self, node: Node) -> Iterator[tuple[str, Sequence[int]]]:
        """The steps of samples that a gather reads from, with the positions of the samples whose results it reads."""
        positions = self.gathers[node.name].positions
        usable = range(len(self.gathered_rows(node).names)) if positions is None else positions
        choices = self.choices.get(node.name)
        for step in node.upstream:
            if step not in self.gathers:
                yield step, usable if choices is None else [i for i in usable if step in choices.steps[i]]

    def gathered_rows(self, node: Node) -> Rows:
        """The rows of which a gather reads results: those of the steps that it reads, or of the samples."""
        read = (self.rows[step] for step in node.upstream if step not in self.gathers)
        return next(read, Rows(names=self.samples))

    def names(self, node: Node) -> tuple[str, ...]:
        """The names of a step's cells."""
        return self.rows[node.name].names

    def sample_of(self, node: Node, position: int) -> str:
        """The sample of a cell, of a group its first."""
        return self.samples[self.rows[node.name].samples_of(position)[0]]

    def rows_read(self, node: Node, step: str, position: int) -> Sequence[int]:
        """Positions of the cells of a step that a cell reads, if it reads that step."""
        return self.rows[node.name].read_in(self.rows[step], position)

    def takes(self, step: str, name: str) -> bool:
        """Whether a cell is chosen; one of a group with any of its samples."""
        rows = self.rows[step]
        if rows.members is None or rows.is_cohort:
            return self.selection.takes(step, name)
        return any(self.selection.takes(step, self.samples[i]) for i in rows.samples_of(rows.positions[name]))

    def _column(self, node: Node) -> StepCells:
        receipts = self.inventory.receipts.get(node.name, {})
        is_plain = self._is_plain(node)
        states: list[CellState] = []
        why: list[Why | None] = []
        fingerprints: list[str] = []
        moving: list[bool] = []
        blocked: dict[str, str] = {}
        is_beyond = False
        excluded = self.inventory.excluded.get(node.name, frozenset())
        names, present = self.names(node), list(self._wanted(node))
        wanted = self._former.counting(node, names, present)
        for i, (name, fingerprint, moves) in enumerate(zip(names, wanted, self._inputs_move(node), strict=True)):
            have = receipts.get(name, ())
            is_excluded = name in excluded
            if is_excluded or (is_plain and not moves and len(have) == 1 and have[0] == fingerprint):
                # Nothing reads an excluded cell, so that nothing waits for it, whatever it would read itself.
                states.append(CellState.EXCLUDED if is_excluded else CellState.DONE)
                why.append(None)
                fingerprints.append(fingerprint)
                moving.append(False)
                continue
            decision = self._decide(node, name, i, fingerprint, have, moves=moves)
            states.append(state := decision.state)
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

    def _is_plain(self, node: Node) -> bool:
        """Whether what is done by its fingerprint needs no second look; most cells of most plans are."""
        is_plain = not (self.selection.force or self.selection.accept_code_changes or node.name in self.live.jobs)
        return is_plain and all(step != node.name for step, _ in self.remade)

    def _inputs_move(self, node: Node) -> Sequence[bool]:
        """For each cell of a step whether something that it reads, however far up, is on its way or made again."""
        choices = self.choices.get(node.name)
        if choices is not None and node.scope is not Scope.COHORT:
            return [self._any_moves(node, i, steps) for i, steps in enumerate(choices.steps)]
        gathers = [step for step in self.reads(node, 0) if step in self.gathers]
        moves = any(self.columns[step].moving[0] for step in gathers)
        if node.scope is Scope.COHORT:
            gathered = self.gathered_cells(node)
            return [moves or any(self.columns[step].moving[i] for step, positions in gathered for i in positions)]
        own, steps = self.rows[node.name], [step for step in node.upstream if step not in gathers]
        columns = [own.any_read(self.rows[step], self.columns[step].moving) for step in steps]
        if moves or not columns:
            return [moves] * len(self.names(node))
        return columns[0] if len(columns) == 1 else [any(cells) for cells in zip(*columns, strict=True)]

    def _any_moves(self, node: Node, position: int, steps: Sequence[str]) -> bool:
        return any(self.columns[step].moving[at] for step in steps for at in self.rows_read(node, step, position))

    def _wanted(self, node: Node) -> Iterable[str]:
        """The fingerprints that a step's cells should have; empty where something that a cell reads has none."""
        chain = {step: column.chain for step, column in self.columns.items()}
        wanted = self.fingerprints(node, self.digests[node.name], chain)
        if not self.selection.accept_code_changes or node.name not in self.live.jobs:
            return wanted
        live, step = self.live.fingerprints, node.name
        return [live.get((step, name)) or own for name, own in zip(self.names(node), wanted, strict=True)]

    def fingerprints(self, node: Node, digest: str, chain: Mapping[str, Sequence[str]]) -> Sequence[str]:
        """Fingerprints of a step's cells, from its digest and the fingerprints of the steps above by name."""
        return fingerprints_of(self, node, digest, chain)

    def _decide(
        self, node: Node, name: str, position: int, fingerprint: str, have: tuple[str, ...], *, moves: bool
    ) -> Decision:
        """Decides the state of a cell by the first row that fits.

        An input is a cell that this one reads: of the same sample, or a gather; those of a gather are its samples'.

        | live | settled | proven | chosen | and                                                     | state    |
        |------|---------|--------|--------|---------------------------------------------------------|----------|
        | yes  | yes     | yes    |        | the receipt is of this very fingerprint                 | DONE     |
        | yes  |         |        | yes    | its own results were removed and must be made again     | DEFERRED |
        | yes  |         |        | yes    | an input is TO_RUN or DEFERRED                          | DEFERRED |
        | yes  |         |        |        |                                                         | LIVE     |
        | no   | yes     | yes    |        |                                                         | DONE     |
        | no   |         |        | no     |                                                         | SKIPPED  |
        | no   |         |        | yes    | it failed in this very command                          | BLOCKED  |
        | no   |         |        | yes    | an input is BLOCKED                                     | BLOCKED  |
        | no   |         |        | yes    | an input is SKIPPED: all such are beyond what is chosen | SKIPPED  |
        | no   |         |        | yes    | an input is SKIPPED                                     | BLOCKED  |
        | no   |         |        | yes    | it is a gather, and held (`gather_input`)              | as held  |
        | no   |         |        | yes    | a source file is not there                              | BLOCKED  |
        | no   |         |        | yes    | an input is DEFERRED                                    | DEFERRED |
        | no   |         |        | yes    | one of its cells of other rows (`is_between`) is LIVE   | DEFERRED |
        | no   |         |        | yes    | the cell of a live job depends on it                    | DEFERRED |
        | no   |         |        | yes    |                                                         | TO_RUN   |

        live: a live job has it, whatever the fingerprint (`conflicts.py`), and the cell has one.
        settled: nothing that it reads, however far up, is on its way or made again (`moves`), and it is neither forced
        nor `remade`, which is chosen too.
        proven: its one receipt is of its fingerprint, or of other code where that is accepted (`_is_proven`).
        """
        is_remade = (node.name, name) in self.remade
        chosen = is_remade or self._choosers[node.name](node.name, name)
        settled = not moves and not is_remade and not self.is_forced(node.name, name)
        if fingerprint and (node.name, name) in self.live.fingerprints:
            if settled and have == (fingerprint,):
                return DONE
            waits = chosen and not _REMADE.isdisjoint(self.read_states(node, position).values())
            waits |= is_remade and have == (fingerprint,)
            return DEFERRED if waits else LIVE
        if settled and self._is_proven(node, fingerprint, have):
            return DONE
        if not chosen:
            return SKIPPED
        inputs = self.read_states(node, position)
        stop = self._stop(node, name, position, fingerprint, have, inputs)
        if stop is not None:
            return stop
        waits = CellState.DEFERRED in inputs.values()
        waits = waits or (bool(self.inventory.live) and waits_between(self, node, position))
        if waits or name in self.live.ancestors.get(node.name, ()):
            return DEFERRED
        return TO_RUN

    def _stop(
        self,
        node: Node,
        name: str,
        position: int,
        fingerprint: str,
        have: tuple[str, ...],
        inputs: Mapping[str, CellState],
    ) -> Decision | None:
        """Decides a chosen cell that cannot run now: the middle rows of `_decide`. None: it can."""
        if (node.name, name) in self.inventory.failed:
            return Decision(state=CellState.BLOCKED, sentence=self.inventory.failed[node.name, name])
        if not _STOPPED.isdisjoint(inputs.values()):
            return self._stop_by_input(node, position, inputs)
        if node.name in self.gathers and (held := self.gathers[node.name].held) is not None:
            return held
        if not fingerprint and (port := excluded_port(self, node, position)):
            steps = " or ".join(option.task.name for option in node.choosing[port] if isinstance(option, Port))
            sentence = (
                f"Its input {port} has nothing to read, for conditions exclude {steps}. Give the input an alternative,"
                f" or {node.name} a `when` that excludes this cell too."
            )
            return Decision(state=CellState.BLOCKED, sentence=sentence)
        if not fingerprint and lacks_source(self, node, position):
            hint = " It has an older result: --accept-code-changes trusts it." if have else ""
            absent = self.inventory.absent.get(self.sample_of(node, position), "Its source file is not there.")
            sentence = absent + hint
            return Decision(state=CellState.BLOCKED, sentence=sentence)
        return None

    def _stop_by_input(self, node: Node, position: int, inputs: Mapping[str, CellState]) -> Decision:
        stops = {step: state for step, state in inputs.items() if state in _STOPPED}
        by_state = {state: step for step, state in stops.items()}
        if CellState.BLOCKED in by_state:
            sentence = f"It needs {by_state[CellState.BLOCKED]}, which cannot run."
            return Decision(state=CellState.BLOCKED, sentence=sentence)
        if all(self.columns[step].is_beyond for step in stops) or is_partly_chosen(self, node, position):
            return BEYOND
        sentence = f"It needs {by_state[CellState.SKIPPED]}, which is not done and was not chosen."
        return Decision(state=CellState.BLOCKED, sentence=sentence)

    def is_forced(self, step: str, sample: str) -> bool:
        """Whether the cell must run, done or not: once a command."""
        chosen = self.selection.force and self.takes(step, sample)
        return chosen and (step, sample) not in self.inventory.made

    def _why(self, node: Node, name: str, fingerprint: str, have: tuple[str, ...]) -> Why:
        """Why a cell runs."""
        if len(have) > 1:
            return Why.IN_DOUBT
        if self._is_proven(node, fingerprint, have):
            if self.is_forced(node.name, name):
                return Why.FORCED
            return Why.REMOVED if (node.name, name) in self.remade else Why.UPSTREAM
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
        positions = self.gathers[node.name].positions
        if positions is None:
            return False
        names = self.gathered_rows(node).names
        return self.inventory.gathered.get(node.name, frozenset()) == {names[i] for i in positions}

    def read_states(self, node: Node, position: int) -> dict[str, CellState]:
        """Upstream step -> state of what the cell reads there: one cell, or for a gather the one that matters most."""
        is_gather, rows = node.name in self.gathers, self.rows[node.name]
        read = {}
        for step in self.reads(node, position):
            if step in self.gathers:
                read[step] = self.columns[step].states[0]
            elif not is_gather:
                alike = self.rows[step] is rows
                read[step] = self.columns[step].states[position] if alike else self._state_read(node, step, position)
        if is_gather:
            # `gather_input_of` saw to it that blocked and skipped cells are not read.
            for step, positions in self.gathered_cells(node):
                states = self.columns[step].states
                there = set(states) if node.name not in self.choices else {states[i] for i in positions}
                read[step] = next((state for state in _MATTERS if state in there), CellState.DONE)
        return read

    def _state_read(self, node: Node, step: str, position: int) -> CellState:
        """The state of what a cell reads of a step with other rows: of several cells, the one that matters most."""
        states, read = self.columns[step].states, self.rows_read(node, step, position)
        there = {states[at] for at in read}
        return next((state for state in (*_STOPS, *_MATTERS) if state in there), CellState.DONE)

    def defer(self, split: AbstractSet[str]) -> None:
        """Defers what waits for live jobs (native ids) that no array can follow, and all that reads from that."""
        self.split |= split
        for node in self.graph:
            self.set_deferred(
                node,
                [
                    state is CellState.TO_RUN
                    and (self._waits_for_split(node, i) or CellState.DEFERRED in self.read_states(node, i).values())
                    for i, state in enumerate(self.columns[node.name].states)
                ],
            )

    def hold(self, later: Mapping[Rows, AbstractSet[int]]) -> bool:
        """Defers what no wave can take while these rows (positions) are left to later ones (`waves.py`).

        That is gathers of what these still have to run, their cells that wait for a gather, and all that reads from
        either. Returns whether there was anything.
        """
        held: set[str] = set()
        for node in self.graph if later else ():
            gathers = {step for step in node.upstream if step in self.gathers}
            if node.name in self.gathers:
                states_read = [
                    self.columns[step].states[i]
                    for step in node.upstream
                    if step not in gathers
                    for i in later.get(self.rows[step], ())
                ]
                waiting = {0} if CellState.TO_RUN in states_read else set()
            else:
                moving = {step for step in gathers if self.columns[step].states[0] in _ON_THEIR_WAY}
                here = later.get(self.rows[node.name], frozenset())
                waiting = {i for i in here if not moving.isdisjoint(self.reads(node, i))} if moving else set()
            if not waiting and held.isdisjoint(node.upstream):
                continue
            waits = [
                state is CellState.TO_RUN and (i in waiting or CellState.DEFERRED in self.read_states(node, i).values())
                for i, state in enumerate(self.columns[node.name].states)
            ]
            if self.set_deferred(node, waits):
                held.add(node.name)
        return bool(held)

    def set_deferred(self, node: Node, waits: Sequence[bool]) -> bool:
        """Defers the cells of a step that wait; returns whether one does."""
        if not any(waits):
            return False
        column = self.columns[node.name]
        states = [CellState.DEFERRED if w else state for w, state in zip(waits, column.states, strict=True)]
        why = [None if w else reason for w, reason in zip(waits, column.why, strict=True)]
        self.columns[node.name] = replace(column, states=states, why=why)
        return True

    def _waits_for_split(self, node: Node, position: int) -> bool:
        if node.scope is Scope.COHORT:
            return False  # It waits for whole jobs.
        rows = self.rows[node.name]
        return any(
            self.live.jobs[step][rows.names[position]].native_id in self.split
            for step in self.reads(node, position)
            if self.rows[step] is rows and self.columns[step].states[position] is CellState.LIVE
        )


def _chain(present: Sequence[str], counting: Sequence[str], kept: Sequence[str]) -> list[str]:
    """Fingerprints for what reads the cells: a result that counts by a former one goes by its present one."""
    return [own if held == counts else held for own, counts, held in zip(present, counting, kept, strict=True)]
