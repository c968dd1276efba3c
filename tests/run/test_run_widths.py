"""Widths of steps on a virtual Batch: never more cells side by side, and nothing left when the run has ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_pipeline.config import load_settings
from batch_pipeline.localbatch.api.model import ApiError, ApiRequest
from batch_pipeline.pipeline.resources import with_step_settings
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.records.request import Request
from batch_pipeline.run import widths
from batch_pipeline.run.live import live_run_ids
from batch_pipeline.run.widths import change_width, left_over, read_widths, remove_left_over, width_notes
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import BackendFailed, InvalidPlan, InvalidUse
from batch_pipeline.wire.store import Store
from tests.examples import examples
from tests.run.small import Ear, Letters, Stage, chosen, drive, look, new_store, request_of
from tests.run.virtual import BUG, SPOT, Attempt, Death, World

NAMES = tuple(f"s{number}" for number in range(7))


def wide(store: Store, *samples: str, flags: Mapping[str, Any] | None = None, **of_steps: int) -> Request:
    """A request whose steps have widths."""
    graph = with_step_settings(
        Graph.of(Letters), {step: {"max_parallel": cells} for step, cells in of_steps.items()}, place_of=str
    )
    flags = {"watch.poll_seconds": 30, "backend.name": "embedded", **(flags or {})}
    return request_of(store, *(samples or NAMES), graph=graph, settings=load_settings(flags, environ={}))


class Wide(World):
    """Remembers how many cells of each step ran side by side at most."""

    def __init__(self, store: Store, **options: Any) -> None:
        super().__init__(store, **options)
        self.peaks: Counter[str] = Counter()

    def _begin(self, attempt: Attempt) -> None:
        super()._begin(attempt)
        now = sum(number for (step, _), number in self._at_work.items() if step == attempt.step)
        self.peaks[attempt.step] = max(self.peaks[attempt.step], now)

    def resources(self) -> list[str]:
        return list(self.backend().widths("batch-pipeline-"))


class Killed(BaseException):
    """The driver's process is gone."""


class Kill:
    """Kills the driver at the n-th call, before or after it took effect."""

    def __init__(self, number: int, *, after: bool) -> None:
        self.left, self._after = number, after

    def before(self, request: ApiRequest) -> None:
        self.left -= 1
        if not self.left and not self._after:
            raise Killed

    def after(self, request: ApiRequest, answer: dict[str, Any]) -> dict[str, Any]:
        if not self.left and self._after:
            raise Killed
        return answer


def test_no_more_cells_of_a_step_run_side_by_side_and_the_others_do(store: Store) -> None:
    world = Wide(store)
    assert not world.drive(wide(store, count=2)).failed
    assert world.peaks == {"upper": 7, "count": 2, "total": 1}
    assert world.resources() == []
    assert world.calls()["CreateConsumableResource"] == world.calls()["DeleteConsumableResource"] == 1


def test_a_run_without_widths_asks_for_none(store: Store) -> None:
    world = Wide(store)
    world.drive(wide(store))
    assert not [name for name in world.calls() if "Consumable" in name]


def test_a_width_is_recorded_before_it_is_made_and_made_before_a_job_is_sent(store: Store) -> None:
    seen: list[str] = []

    class Look(Kill):
        def before(self, request: ApiRequest) -> None:
            if request.operation in ("CreateConsumableResource", "SubmitJob"):
                (run_id,) = live_run_ids(store)
                assert list(read_widths(store, run_id)) == ["upper"]
                seen.append(request.operation)

    world = Wide(store)
    world.batch.faults = Look(0, after=False)
    world.drive(wide(store, upper=2), detach=True)
    assert seen[:2] == ["CreateConsumableResource", "SubmitJob"]


@pytest.mark.properties
@settings(examples(10))
@given(
    upper=st.integers(1, 3),
    count=st.integers(1, 3),
    bound=st.sampled_from([0, 4, 6]),
    interrupted=st.sets(st.sampled_from(NAMES)),
    failing=st.sets(st.sampled_from(NAMES), max_size=2),
)
def test_over_random_schedules_never_more_than_the_width(
    upper: int, count: int, bound: int, interrupted: set[str], failing: set[str]
) -> None:
    store = new_store()

    def play(attempt: Attempt) -> Death | None:
        if attempt.sample in interrupted and attempt.attempt == 1:
            return SPOT
        return BUG if attempt.sample in failing and attempt.step == "count" else None

    world = Wide(store, play=play)
    flags = {"backend.max_children": bound} if bound else {}
    world.drive(wide(store, flags=flags, upper=upper, count=count))
    assert not world.twice
    assert world.peaks["upper"] <= upper
    assert world.peaks["count"] <= count
    assert world.resources() == []


def test_a_run_that_begins_while_another_is_live_shares_its_width(store: Store) -> None:
    world = Wide(store)
    some = chosen(steps=frozenset({"upper", "count"}))
    world.drive(replace(wide(store, *NAMES[:4], upper=2), **some), detach=True)
    (name,) = world.resources()
    world.drive(replace(wide(store, *NAMES, upper=2), **some), detach=True)
    assert world.resources() == [name]
    assert len(live_run_ids(store)) == 2
    world.drive(wide(store, *NAMES, upper=2))
    assert world.peaks["upper"] == 2
    assert world.resources() == []


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", range(1, 11))
def test_a_killed_driver_leaves_nothing_that_the_same_command_or_doctor_does_not_remove(
    number: int, after: bool, store: Store
) -> None:
    world = Wide(store)
    world.batch.faults = Kill(number, after=after)
    try:
        world.drive(wide(store, upper=2), detach=True)
    except Killed:
        pass
    world.batch.faults = None
    backend = world.backend()
    kept = set(world.resources())
    removed = set(remove_left_over(store, backend))
    jobs = [job for job in world.batch.batch.engine.jobs.values() if job.spec.consumes and not job.ended]
    assert removed == (set() if jobs else kept), "removed as soon as no job needs it, and no sooner"
    assert not world.drive(wide(store, upper=2)).failed
    assert world.peaks["upper"] <= 2
    assert world.resources() == []
    assert world.twice == []


def test_doctor_names_what_ended_runs_left_and_leaves_other_stores_alone(store: Store) -> None:
    world = Wide(store)
    backend = world.backend()
    backend.set_width("batch-pipeline-01AAAAAAAAAAAAAAAAAAAAAAAA-upper", 1)
    world.drive(wide(store, upper=2), detach=True)
    assert list(left_over(store, backend)) == []
    (run_id,) = live_run_ids(store)
    world.batch.run_until_idle()
    store.delete([layout.live(run_id)])
    assert list(left_over(store, backend)) == [f"batch-pipeline-{run_id}-upper"]
    assert remove_left_over(store, backend) == [f"batch-pipeline-{run_id}-upper"]
    assert world.resources() == ["batch-pipeline-01AAAAAAAAAAAAAAAAAAAAAAAA-upper"]


def test_a_width_is_changed_while_it_is_in_use_and_later_waves_have_it_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(attempt: Attempt) -> None:
        if len(world.attempts) == 2:
            (run_id,) = live_run_ids(store)
            (changed,) = change_width(store, request.settings, "upper", 2)
            assert (changed.run_id, changed.before, changed.cells) == (run_id, 1, 2)

    world = Wide(store, play=play)
    monkeypatch.setattr(widths, "backend_of", lambda settings: world.backend())
    request = wide(store, flags={"backend.max_children": 6}, upper=1)
    assert not world.drive(request).failed
    assert world.peaks["upper"] == 2
    events = [entry.key for run_id in store.folders(layout.RUNS) for entry in store.list(layout.events(run_id))]
    assert sum(store.get_json(key)["event"] == "width changed" for key in events) == 1


def test_what_has_no_width_cannot_be_given_one(store: Store) -> None:
    with pytest.raises(InvalidUse, match=r"No live run has a width of step 'upper'.*steps.upper.max_parallel=3"):
        change_width(store, wide(store).settings, "upper", 3)
    with pytest.raises(InvalidUse, match="Run X has no width"):
        change_width(store, wide(store).settings, "upper", 3, "X")


def test_who_may_not_make_one_sends_nothing(store: Store) -> None:
    class Forbids(Kill):
        def before(self, request: ApiRequest) -> None:
            if request.operation == "CreateConsumableResource":
                raise ApiError("not authorized", code="AccessDeniedException", status=403)

    world = Wide(store)
    world.batch.faults = Forbids(0, after=False)
    with pytest.raises(BackendFailed, match=r"CreateConsumableResource.*Give your AWS identity the right"):
        world.drive(wide(store, upper=2))
    assert world.calls()["SubmitJob"] == 0
    assert live_run_ids(store) == []


def test_a_width_that_cannot_be_removed_does_not_fail_the_run(store: Store) -> None:
    class Forbids(Kill):
        def before(self, request: ApiRequest) -> None:
            if request.operation == "DeleteConsumableResource":
                raise ApiError("not authorized", code="AccessDeniedException", status=403)

    world = Wide(store)
    world.batch.faults = Forbids(0, after=False)
    assert not world.drive(wide(store, upper=2)).failed
    world.batch.faults = None
    assert list(left_over(store, world.backend())) == world.resources()
    assert len(world.resources()) == 1


def test_pilots_refuse_a_width_by_name(store: Store) -> None:
    request = wide(store, upper=2)
    stage = Stage(store)
    limits = replace(stage.limits(), holds_widths=False)
    with pytest.raises(InvalidPlan, match="max_parallel, to which pilots do not keep"):
        drive(request, Stage(store, limits=limits))


def test_the_twin_in_memory_keeps_to_a_width(store: Store) -> None:
    stage = Stage(store)
    stage.is_open = False
    drive(wide(store, upper=2), stage, Ear(), detach=True)
    assert len(stage.ready()) == 2
    with pytest.raises(LookupError, match="waits for others of width"):
        stage.finish(stage.ready()[0][0], 6)
    stage.is_open = True
    assert not drive(wide(store, upper=2), stage).failed
    assert stage.widths("batch-pipeline-") == {}


@pytest.mark.parametrize(
    ("flags", "cells", "told"),
    [
        ({"backend.name": "embedded"}, 2, "At most 2 of 7 cells of upper run side by side (max_parallel)."),
        ({"backend.name": "aws", "backend.queue": "q"}, 2, "fair share policy (--queue, --share)"),
        ({"backend.name": "aws", "backend.share_identifier": "lab"}, 2, "(max_parallel)."),
        ({"backend.name": "embedded"}, 7, ""),
    ],
)
def test_a_plan_says_what_a_width_does_to_a_queue(
    flags: dict[str, Any], cells: int, told: str, store: Store, stage: Stage
) -> None:
    request = wide(store, upper=cells)
    plan = look(request, stage).plan
    notes = list(width_notes(plan, load_settings(flags, environ={})))
    assert len(notes) == bool(told)
    assert all(note.endswith(told) or told in note for note in notes)
    if "share" not in told:
        assert all("first in, first out" not in note for note in notes)
