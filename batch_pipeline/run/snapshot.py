"""Takes a snapshot: what there is and what would be done, from one reading of store and backend.

`plan` and `status` take one. A driver takes one before each wave, from the `DriverState` that its earlier waves left.
Taking one writes nothing but the native ids of doubtful submissions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from batch_pipeline.backends.base import Backend
from batch_pipeline.pipeline.fingerprint import step_parts
from batch_pipeline.pipeline.plan import Inventory, Plan, RetryOverrides
from batch_pipeline.pipeline.planner import make_plan
from batch_pipeline.pipeline.review import code_problems, require_kinds
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.records.events import FailedCell, RetrySummary
from batch_pipeline.records.receipts import read_retirements
from batch_pipeline.records.record import read_record
from batch_pipeline.records.request import Request
from batch_pipeline.records.submissions import Submission
from batch_pipeline.run import inventory as inventories
from batch_pipeline.run.backend import LazyBackend
from batch_pipeline.run.cell_needs import cell_needs
from batch_pipeline.run.live import LiveRun, has_begun, live_jobs, live_run_ids, read_live_runs
from batch_pipeline.run.place import reaching, why_unreachable
from batch_pipeline.run.recovery import Cell, FailurePartition, remembered, summary
from batch_pipeline.run.retry_policy import retry_policy
from batch_pipeline.run.verdict import past_failures
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import RunConflict
from batch_pipeline.wire.store import NotInStore


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What there is and what would be done."""

    #: The command's, with the settings that lead to the jobs of live runs.
    request: Request
    plan: Plan
    inventory: Inventory
    reference: str
    #: Runs with a marker, oldest first; some may be over.
    live: Sequence[LiveRun]
    #: What failed in earlier runs, newest first; None: nothing needed it.
    past: Sequence[FailedCell] | None
    #: Calls to the store so far, by kind.
    store_calls: Mapping[str, int]

    @property
    def live_runs(self) -> list[str]:
        """Ids of the runs that have live jobs."""
        return [run.run_id for run in self.live if not run.over]

    @property
    def ended_runs(self) -> list[LiveRun]:
        """Runs whose jobs have all ended and that nobody closed."""
        return [run for run in self.live if run.over]

    @property
    def jobs(self) -> list[Submission]:
        """The live runs' jobs, ended ones too: some of their cells may be worth a word."""
        return [item for run in self.live if not run.over for item in run.submissions]


@dataclass(frozen=True, kw_only=True)
class DriverState:
    """What the earlier waves of a command came to, as far as the next one needs it. A value: waves make new ones."""

    #: The command's, with the settings that lead to the jobs of live runs.
    request: Request
    #: How often cells may still go again.
    rounds: int
    #: Cells that stay failed.
    failed: tuple[FailedCell, ...] = ()
    #: Cells that failed in the last wave, and that the next one sends again.
    pending: tuple[FailedCell, ...] = ()
    #: With what cells go again.
    overrides: Mapping[Cell, RetryOverrides] = field(default_factory=dict)
    #: Cells that ran out of memory and went again, once for each time.
    hungry: tuple[FailedCell, ...] = ()
    #: What went again, a line for each step, reason and overrides.
    retries: tuple[RetrySummary, ...] = ()
    #: Cells of the waves so far: what is forced is forced once.
    made: frozenset[Cell] = frozenset()
    #: What failed in earlier runs, newest first; None: not read yet.
    past: Sequence[FailedCell] | None = None
    #: The plan of the first wave.
    first: Plan | None = None
    #: Runs that earlier attempts of the same driver began, oldest first.
    run_ids: tuple[str, ...] = ()

    @classmethod
    def of(cls, request: Request) -> DriverState:
        """The state of a command that has done nothing yet."""
        return cls(request=request, rounds=request.settings.recovery.rounds)

    def informed(self, snapshot: Snapshot) -> DriverState:
        """The state that knows what a snapshot read."""
        return replace(self, request=snapshot.request, past=snapshot.past)

    def after_wave(self, snapshot: Snapshot) -> DriverState:
        """The state once the wave that a snapshot planned is sent."""
        forced = snapshot.plan.under_way() if snapshot.request.selection.force else frozenset()
        state = self.informed(snapshot)
        return replace(state, pending=(), made=self.made | forced, first=self.first or snapshot.plan)

    def after_failures(self, partition: FailurePartition) -> DriverState:
        """The state once a wave's failed cells are judged."""
        retried = tuple(partition.retried)
        return replace(
            self,
            rounds=self.rounds - bool(partition.overrides),
            failed=(*self.failed, *partition.lasting),
            pending=retried,
            overrides={**self.overrides, **(partition.overrides if retried else {})},
            hungry=(*self.hungry, *(cell for cell in retried if cell.reason is EndReason.OUT_OF_MEMORY)),
            retries=(*self.retries, *summary(retried, partition.overrides)),
        )


def _has_problems(graph: Graph) -> bool:
    """Whether the code of a graph is wrong, or cannot be read, which who reads it next says with the step's name."""
    try:
        return bool(code_problems(graph))
    except OSError:
        return True


def take_snapshot(state: DriverState, backend: LazyBackend, *, submits: bool = False) -> Snapshot:
    """Reads store and backend, and plans. The backend is opened only when a run may be live, or surely will be.

    Who `submits` what is missing has it wake meanwhile. Raises RunConflict where a live run's jobs are out of reach.
    """
    request, store = state.request, state.request.store
    require_kinds(request.graph)
    run_ids = live_run_ids(store)
    request = _reach(request, run_ids)

    def opened() -> Backend:
        return backend.open(request.settings)

    if submits and _is_new(request) and not _has_problems(request.graph):
        opened().wake()
    retirements = read_retirements(store)
    reference, references = inventories.choose_reference(request, retirements)
    parts = {node.name: step_parts(node, request.graph.root, reference, references) for node in request.graph}
    live = read_live_runs(store, opened(), run_ids) if run_ids else []
    inventory = replace(
        inventories.read_inventory(request, references, retirements),
        live=live_jobs(store, live, opened),
        live_children=sum(run.unended_children for run in live),
        failed={(cell.step, cell.sample): f"It failed in this run: {cell.reason.words}." for cell in state.failed},
        made=state.made,
    )
    names, limits = request.samples.names, backend.limits(request.settings)
    plan = make_plan(request.graph, names, parts, inventory, request.selection, limits)
    inventory, past = _with_resources(state, request, backend, plan, inventory)
    if inventory.overrides or inventory.needs:
        plan = make_plan(request.graph, names, parts, inventory, request.selection, limits)
    return Snapshot(
        request=request,
        plan=plan,
        inventory=inventory,
        reference=reference,
        live=live,
        past=past,
        store_calls=Counter(store.calls),
    )


def _with_resources(
    state: DriverState, request: Request, backend: LazyBackend, plan: Plan, inventory: Inventory
) -> tuple[Inventory, Sequence[FailedCell] | None]:
    """The inventory with what cells of a plan go again with and ask for, and what failed earlier, if that was read."""
    past, recovers = state.past, bool(request.settings.recovery.rounds)
    computes = any(node.by_evidence for node in request.graph)
    if not plan.jobs or not (recovers or computes):
        return inventory, past
    past = past_failures(request.store) if past is None else past
    if recovers:
        known = remembered(past, plan.under_way, retry_policy(request, backend, past))
        inventory = replace(inventory, overrides={**known, **state.overrides})
    if computes:
        inventory = replace(inventory, needs=cell_needs(request, plan, inventory, (*past, *state.hungry)))
    return inventory, past


def _is_new(request: Request) -> bool:
    """Whether a chosen step that every sample has was never done, as a folder tells without a LIST."""
    folder, chosen = request.store.path_of(layout.RECEIPTS), request.selection.steps
    steps = [node.name for node in request.graph if not node.when and node.step.scope is Scope.SAMPLE]
    return folder is not None and not all(
        (folder / step).exists() for step in steps if chosen is None or step in chosen
    )


def _reach(request: Request, run_ids: Sequence[str]) -> Request:
    """The request, going where live runs have their jobs, as far as the command does not say otherwise.

    A run without any, whose driver died or was refused before it sent one, leads nowhere.
    Raises RunConflict where that is out of reach: another backend would know nothing of the jobs, and what is
    unknown counts as lost.
    """
    for run_id in run_ids:
        try:
            record = read_record(request.store, run_id)
        except NotInStore:
            continue
        settings = reaching(request.settings, record)
        unreachable = why_unreachable(settings, record)
        if (unreachable or settings != request.settings) and not has_begun(request.store, run_id):
            continue
        if unreachable:
            raise RunConflict(unreachable)
        request = replace(request, settings=settings)
    return request
