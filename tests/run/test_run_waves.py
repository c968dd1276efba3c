"""A run of more children than may be on the queue: waves, released by one driver or by many that are killed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline import WorkflowTask
from batch_pipeline.backends.base import JobRequest, JobSummary
from batch_pipeline.config import load_settings
from batch_pipeline.pipeline.plan import CellState
from batch_pipeline.pipeline.waves import children_by_wave
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.records.cell_table import CellEnd, table_of
from batch_pipeline.records.events import Outcome, StepProgress
from batch_pipeline.records.manifests import cells_of
from batch_pipeline.records.receipts import read_retirements
from batch_pipeline.records.record import read_record
from batch_pipeline.records.request import Request
from batch_pipeline.report.tables import plan_notes, unsent_line
from batch_pipeline.run import live
from batch_pipeline.run.cancel import cancel, close_unbegun
from batch_pipeline.run.closing import index_run
from batch_pipeline.run.live import live_run_ids
from batch_pipeline.run.lock import DriverLock
from batch_pipeline.run.recorded import recorded_status
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason, Variable
from batch_pipeline.wire.errors import InvalidUse, SubmissionRefused
from batch_pipeline.wire.store import Store
from tests.run.again import Chain, Place, Root, Shape, played
from tests.run.small import Count, Ear, Letters, Stage, Upper, chosen, drive, look, request_of


class Three(WorkflowTask):
    """Three steps a sample."""

    def workflow(self) -> None:
        upper, count, more = self.new_task("upper", Upper), self.new_task("count", Count), self.new_task("more", Count)
        upper.in_text = self.source("{sample}.txt")
        count.in_text = upper.out_upper
        more.in_text = count.out_count


class Queue(Stage):
    """Ends some children a look, and knows how many were on the queue after each submission."""

    def __init__(self, store: Store, pace: int = 3) -> None:
        super().__init__(store)
        self.pace = pace
        self.is_acting = False
        self.live: list[int] = []
        #: The live children at each look.
        self.looks: list[int] = []

    def summaries(self, native_ids: Sequence[str]) -> Mapping[str, JobSummary]:
        self.is_acting = True
        for native_id, index in self.ready()[: self.pace] if self.is_open else ():
            self.finish(native_id, index, self._act(self.jobs[native_id].request, index))
        self.is_acting = False
        self.looks.append(self.unended())
        self.calls["looks"] += 1
        return super(Stage, self).summaries(native_ids)

    def submit(self, request: JobRequest) -> str:
        native_id = super().submit(request)
        self.live.append(self.unended())
        return native_id

    def unended(self) -> int:
        return sum(not state.final for job in self.jobs.values() for state in job.counts.elements())


def bounded(store: Store, most: int, samples: int, workflow: type[WorkflowTask] = Three, **changes: Any) -> Request:
    options = {"watch.poll_seconds": 0.001, "backend.max_children": most, **changes.pop("options", {})}
    settings = load_settings(options, environ={}, folder=Path("/nowhere"))
    names = [f"s{number:03}" for number in range(samples)]
    return request_of(store, *names, workflow=workflow, graph=Graph.of(workflow), settings=settings, **changes)


def sent_once(queue: Stage, cells: int) -> None:
    """Asserts that each of so many cells was sent once and ran once."""
    sent = Counter(queue.submitted())
    assert len(sent) == cells
    assert set(sent.values()) == {1}
    assert set(queue.tried.values()) == {1}


def test_a_hundred_samples_x_three_steps_below_a_bound(store: Store) -> None:
    queue, ear = Queue(store, pace=10), Ear()
    outcome = drive(bounded(store, 60, 100), queue, ear)

    assert outcome.ok
    assert {name: step.line for name, step in outcome.progress.items()} == {
        "upper": "100/100 done",
        "count": "100/100 done",
        "more": "100/100 done",
    }
    sent_once(queue, 300)
    assert children_by_wave(ear.plans[0]) == [60] + [30] * 8
    assert len(ear.plans) == 1
    assert len(outcome.run_ids) == 9
    assert max(queue.live) == 60
    assert live_run_ids(store) == []


def test_a_bound_of_ten(store: Store) -> None:
    queue = Queue(store)
    assert drive(bounded(store, 10, 12), queue).ok
    sent_once(queue, 36)
    assert max(queue.live) <= 10


def test_the_queue_is_filled_before_it_runs_dry(store: Store) -> None:
    queue = Queue(store, pace=1)
    assert drive(bounded(store, 12, 10), queue).ok
    sent_once(queue, 30)
    # Until the last wave is sent, no look finds less than half of the bound.
    last = queue.calls["submit"]
    assert last == len(queue.live)
    assert min(queue.looks[: queue.looks.index(6)]) >= 6
    assert 0 in queue.looks[-2:]


def test_waves_list_no_receipt_and_no_source_and_ask_the_backend_nothing_more(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue(store, pace=1000)
    listed: list[str] = []
    call = Store._call

    def noted(self: Store, kind: str, key: str, count: int = 1) -> Any:
        if kind == "list" and not queue.is_acting:
            listed.append(key)
        return call(self, kind, key, count)

    monkeypatch.setattr(Store, "_call", noted)
    outcome = drive(bounded(store, 24, 40), queue)

    assert len(outcome.run_ids) == 9
    # Once for the plan and once for the verdict, a step each; request_of looks at the sources too.
    assert len([key for key in listed if key.startswith(layout.RECEIPTS)]) <= 2 * 3 + 1
    assert len([key for key in listed if key.startswith("SR")]) <= 2
    # The lock, and orders to cancel.
    assert len(listed) < 14 * 9
    assert queue.calls["children"] == queue.calls["find"] == 0
    assert queue.calls["submit"] == 3 * 10


def test_a_gather_and_what_reads_it_follow_when_all_waves_have_ended(store: Store) -> None:
    queue, ear = Queue(store), Ear()
    outcome = drive(bounded(store, 8, 10, Letters), queue, ear)

    assert outcome.ok
    sent_once(queue, 21)
    assert [job for job, _ in ear.jobs][-1] == "total"
    assert len(ear.plans) == 2
    assert ear.plans[0].states["total"] == [CellState.DEFERRED]
    assert outcome.progress["total"].line == "1/1 done"


def test_progress_counts_cells_of_later_waves_as_waiting(store: Store) -> None:
    ear = Ear()
    drive(bounded(store, 6, 4), Queue(store), ear)

    assert ear.lines[0].startswith("upper: ")
    assert {line.split("/")[1].split(" ")[0] for line in ear.lines} == {"4"}
    assert not [line for line in ear.lines if "left out" in line]


def test_what_failed_in_a_wave_is_told_at_the_end_and_holds_no_other(store: Store) -> None:
    queue = Queue(store)
    queue.play = lambda step, sample, attempt: int((step, sample) == ("count", "s001"))
    outcome = drive(bounded(store, 6, 6), queue)

    assert [(cell.step, cell.sample, cell.reason) for cell in outcome.failed] == [
        ("count", "s001", EndReason.STEP_FAILED),
        ("more", "s001", EndReason.DEPENDENCY),
    ]
    assert outcome.progress["more"].line == "5/6 done, 1 not run"
    assert queue.tried["count", "s001"] == 1


def test_what_is_made_again_in_later_waves_is_retired_before_anything_is_sent(store: Store) -> None:
    drive(bounded(store, 0, 6), Queue(store, pace=100))
    retired: list[int] = []

    class Looker(Queue):
        def submit(self, request: JobRequest) -> str:
            retired.append(len(read_retirements(store).receipts))
            return super().submit(request)

    queue = Looker(store)
    queue.is_open = False
    drive(bounded(store, 6, 6, **chosen(force=True)), queue, detach=True)

    assert retired[0] == 18
    queue.is_open = True
    assert drive(bounded(store, 6, 6), queue).ok
    sent_once(queue, 18)
    assert not read_retirements(store).receipts


def test_detach_sends_the_first_wave_and_says_that_the_rest_needs_somebody(store: Store) -> None:
    queue = Queue(store)
    queue.is_open = False
    outcome = drive(bounded(store, 6, 5), queue, detach=True)

    assert outcome.ok
    assert outcome.unsent == 9
    assert len(queue.submitted()) == 6
    assert "9 cells of later waves are not queued" in unsent_line(outcome)
    # With a full queue nothing is sent, and no run begins.
    again = drive(bounded(store, 6, 5), queue, detach=True)
    assert (again.submitted, again.unsent, again.run_ids) == (0, 9, outcome.run_ids)
    queue.is_open = True
    assert drive(bounded(store, 6, 5), queue).ok
    sent_once(queue, 15)


def test_a_full_queue_of_an_earlier_run_is_waited_for(store: Store) -> None:
    queue = Queue(store)
    queue.is_open = False
    drive(bounded(store, 0, 6, **chosen(samples=frozenset({"s000", "s001"}))), queue, detach=True)
    queue.is_open = True
    ear = Ear()
    assert drive(bounded(store, 6, 6), queue, ear).ok
    assert children_by_wave(ear.plans[0]) == [0, 3, 3, 3, 3]
    assert max(queue.live) <= 6
    sent_once(queue, 18)


def test_a_cancelled_run_sends_no_further_wave(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(store, pace=1)
    request = bounded(store, 6, 6)
    monkeypatch.setattr("batch_pipeline.run.cancel.backend_of", lambda settings: queue)

    class Canceller(Ear):
        def progressed(self, progress: object) -> None:
            if queue.calls["looks"] == 2:
                cancel(store, request.settings, live_run_ids(store))

    outcome = drive(request, queue, Canceller())

    assert not outcome.ok
    assert outcome.unsent == 12
    assert len(queue.submitted()) == 6
    assert outcome.progress["upper"].left_out == 4
    assert "12 cells of later waves were not sent" in unsent_line(outcome)
    assert live_run_ids(store) == []


def full_queue(store: Store, samples: int = 6) -> Queue:
    """A queue that a run has filled whose driver is gone, and which goes on."""
    queue = Queue(store, pace=1)
    queue.is_open = False
    drive(bounded(store, 6, samples), queue, detach=True)
    queue.is_open = True
    return queue


class Canceller(Ear):
    """Cancels once, as the command does, when the queue was looked at so many times."""

    def __init__(self, queue: Queue, request: Request, after: int, **chosen: frozenset[str]) -> None:
        super().__init__()
        self._queue, self._request, self._after, self._chosen = queue, request, after, chosen
        self.is_over = False

    def progressed(self, progress: Mapping[str, StepProgress]) -> None:
        super().progressed(progress)
        if self.is_over or len(self._queue.looks) < self._after:
            return
        self.is_over = True
        store = self._request.store
        run_ids = live_run_ids(store)
        cancelled = cancel(store, self._request.settings, run_ids, **self._chosen)
        if not self._chosen:
            close_unbegun(store, [run_id for run_id in run_ids if run_id not in {one.run_id for one in cancelled}])


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> Callable[[Queue], None]:
    """Has `cancel` reach a queue in memory."""
    return lambda queue: monkeypatch.setattr("batch_pipeline.run.cancel.backend_of", lambda settings: queue)


def test_a_run_that_waits_for_its_first_room_is_cancelled_too(store: Store, reached: Callable[[Queue], None]) -> None:
    queue, request = full_queue(store), bounded(store, 6, 6)
    reached(queue)
    outcome = drive(request, queue, Canceller(queue, request, after=2))

    assert (outcome.ok, outcome.unsent, len(queue.submitted())) == (False, 12, 6)
    assert live_run_ids(store) == []


def test_a_run_whose_first_wave_had_no_room_is_closed(store: Store) -> None:
    assert drive(bounded(store, 6, 4), full_queue(store, 4)).ok
    assert live_run_ids(store) == []


@pytest.mark.parametrize(
    ("chosen_cells", "cancelled"),
    [
        ({"samples": frozenset({"s005"})}, {("upper", "s005"), ("count", "s005"), ("more", "s005")}),
        ({"steps": frozenset({"more"})}, {("more", f"s00{number}") for number in range(6)}),
    ],
)
def test_cells_of_later_waves_that_were_cancelled_do_not_run(
    store: Store,
    reached: Callable[[Queue], None],
    chosen_cells: dict[str, frozenset[str]],
    cancelled: set[tuple[str, str]],
) -> None:
    queue, request = Queue(store, pace=1), bounded(store, 6, 6)
    reached(queue)
    outcome = drive(request, queue, Canceller(queue, request, after=2, **chosen_cells))

    assert outcome.unsent == 0
    assert {(cell.step, cell.sample) for cell in outcome.failed} == cancelled
    assert {cell.reason for cell in outcome.failed} == {EndReason.CANCELLED}
    assert not set(queue.tried) & cancelled
    assert outcome.progress["upper"].line.startswith("5/6 done" if len(cancelled) == 3 else "6/6 done")


def test_what_ran_out_of_memory_before_its_run_was_cancelled_does_not_go_again(
    store: Store, reached: Callable[[Queue], None]
) -> None:
    queue = Queue(store, pace=1)
    queue.play = lambda step, sample, attempt: 137 if (step, sample) == ("upper", "s000") else 0
    queue.silent = {"s000"}
    request = bounded(store, 0, 4, options={"backend.name": "aws"})
    reached(queue)
    outcome = drive(request, queue, Canceller(queue, request, after=4))

    assert queue.tried["upper", "s000"] == 1
    assert outcome.stopped_by == "The run was cancelled."
    assert not outcome.again
    assert EndReason.OUT_OF_MEMORY in {cell.reason for cell in outcome.failed}


def test_a_gather_of_what_is_left_is_not_sent_after_its_run_was_cancelled(
    store: Store, reached: Callable[[Queue], None]
) -> None:
    queue = Queue(store, pace=1)
    request = bounded(store, 8, 6, Letters, **chosen(min_success=0.1))
    reached(queue)
    outcome = drive(request, queue, Canceller(queue, request, after=10))

    assert len(outcome.run_ids) == 2
    assert "total" not in {step for step, _ in queue.submitted()}
    assert outcome.stopped_by
    assert not outcome.ok
    assert outcome.unsent == 1


def test_cancel_asks_no_other_queue_than_that_of_the_jobs(store: Store) -> None:
    queue = Queue(store)
    queue.is_open = False
    (run_id,) = drive(bounded(store, 0, 2, options={"embedded.state": "/here"}), queue, detach=True).run_ids
    with pytest.raises(InvalidUse, match=r"embedded.state '/here', not '/there'\. Give the same settings"):
        cancel(store, bounded(store, 0, 2, options={"embedded.state": "/there"}).settings, [run_id])


def test_another_driver_that_sends_the_rest_meanwhile_is_followed_and_nothing_is_sent_twice(store: Store) -> None:
    queue = Queue(store, pace=1)
    request = bounded(store, 6, 6)
    others: list[Outcome] = []

    class Rival(Ear):
        def progressed(self, progress: object) -> None:
            if not others:
                others.append(drive(bounded(store, 0, 6), queue, detach=True))

    outcome = drive(request, queue, Rival())

    assert outcome.ok
    assert others[0].submitted
    sent_once(queue, 18)


def test_another_driver_that_is_submitting_when_there_is_room_is_no_error(store: Store) -> None:
    queue = Queue(store, pace=1)
    rivals: list[DriverLock] = []

    class Rival(Ear):
        def progressed(self, progress: object) -> None:
            if not rivals:
                rivals.append(DriverLock(store))
                rivals[0].take()
            if len(queue.looks) > 4:
                rivals[0].release()

    assert drive(bounded(store, 6, 6), queue, Rival()).ok
    sent_once(queue, 18)


def test_a_later_wave_that_is_refused_ends_the_command_and_the_next_one_goes_on(store: Store) -> None:
    queue = Queue(store)

    class Refuser(Ear):
        def submitted(self, run_id: str, step: str, job: str, native_id: str, size: int) -> None:
            if len(queue.jobs) == 6:
                queue.fail_next(SubmissionRefused("The queue is disabled."))

    with pytest.raises(SubmissionRefused, match="disabled"):
        drive(bounded(store, 6, 6), queue, Refuser())
    assert drive(bounded(store, 6, 6), queue).ok
    sent_once(queue, 18)


def test_a_later_wave_has_the_code_that_the_plan_had(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from batch_pipeline.run import bundle

    packed: list[Graph] = []
    make = bundle.make_bundle

    def counted(graph: Graph) -> bundle.Bundle:
        packed.append(graph)
        return make(graph)

    monkeypatch.setattr(bundle, "make_bundle", counted)
    outcome = drive(bounded(store, 6, 4), Queue(store))

    assert len(outcome.run_ids) == 3
    assert len(packed) == 1
    records = [store.get_json(layout.run_record(run_id)) for run_id in outcome.run_ids]
    assert len({record["bundle_sha256"] for record in records}) == 1
    assert [record["cells"]["more"] for record in records] == [2, 1, 1]
    assert [record["jobs"] for record in records] == [6, 3, 3]


def test_the_table_of_the_last_wave_tells_of_all_cells(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(store)
    queue.play = lambda step, sample, attempt: int((step, sample) == ("count", "s001"))
    outcome = drive(bounded(store, 6, 6), queue)

    table, _ = table_of(store, read_record(store, outcome.run_ids[-1]))
    assert table is not None
    counts = {step: cells.counts() for step, cells in table.steps.items()}
    assert {step: each[CellEnd.UNKNOWN] for step, each in counts.items()} == {"upper": 0, "count": 0, "more": 0}
    assert counts["more"][CellEnd.REUSED] + counts["more"][CellEnd.DONE] == 5
    again = index_run(store, read_record(store, outcome.run_ids[-1]))
    assert {step: cells.counts() for step, cells in again.steps.items()} == counts
    monkeypatch.setattr("batch_pipeline.run.recorded.TABLE_CELLS", 1)
    status = recorded_status(store, bounded(store, 6, 6).settings)
    assert [note for note in status.notes if note.startswith("Read from its cell table")]
    assert {step: progress.done_before for step, progress in status.progress.items()} == {
        "upper": 6,
        "count": 5,
        "more": 5,
    }


def test_a_plan_says_how_many_waves_there_are(store: Store) -> None:
    plan = look(bounded(store, 6, 4), Queue(store)).plan
    assert list(plan_notes(plan)) == [
        "12 cells in 3 waves: at most 6 children are on the queue at once (backend.max_children), and a wave is sent as"
        " soon as there is room."
    ]


CHAIN = Shape({"a": (Root, ()), "b": (Chain, ("a",)), "c": (Chain, ("b",))})


def cells_sent(place: Place) -> Counter[tuple[str, str]]:
    """How often each cell was sent."""
    sent: Counter[tuple[str, str]] = Counter()
    for job in place.cluster.jobs.values():
        manifest = job.request.environment[Variable.MANIFEST]
        _, run_id, _, name, _ = manifest.split("/")
        step = place.store.get_json(manifest)["step"]
        sent.update((step, sample) for sample, _ in cells_of(place.store, run_id, name))
    return sent


@pytest.mark.parametrize("seed", range(4))
def test_a_driver_killed_again_and_again_goes_on_and_sends_nothing_twice(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.0)
    chance = random.Random(seed)
    names = [f"s{number}" for number in range(7)]
    with played(CHAIN, names, seed, deterministic=True) as place:
        place.max_children, place.cluster.pace = 12, 2
        submit = place.cluster.submit

        def checked(request: JobRequest) -> str:
            native_id = submit(request)
            states = (state for job in place.cluster.jobs.values() for state in job.counts.elements())
            assert sum(not state.final for state in states) <= 12
            return native_id

        place.cluster.submit = checked  # type: ignore[method-assign]  # counts what is live
        for _life in range(60):
            if place.drive(place.request(), ends_at=chance.randint(20, 140)) is not None:
                break
            place.cluster.go_on(chance.randint(0, 3))
        else:
            assert place.drive(place.request()) is not None
        assert set(place.look().values()) == {CellState.DONE}
        sent = cells_sent(place)
        assert len(sent) == 21
        assert set(sent.values()) == {1}
        place.check_true()
