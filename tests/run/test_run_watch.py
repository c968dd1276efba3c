"""Following jobs: how often Batch is asked, and what is made of its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import pytest

from batch_pipeline.backends.base import JobSummary
from batch_pipeline.backends.parsing import forgotten
from batch_pipeline.records.submissions import Submission
from batch_pipeline.run.live import live_run_ids, submissions
from batch_pipeline.run.watch import OMISSIONS, SHORTEST, Watch
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.store import Store
from tests.run.small import Ear, Stage, drive, look, request_of


class Slow(Stage):
    """Ends one child a look, and counts what it is asked for."""

    asked: list[int]

    def summaries(self, native_ids: Sequence[str]) -> Mapping[str, JobSummary]:
        if self.is_open and (ready := self.ready()):
            native_id, index = ready[0]
            self.finish(native_id, index, self._act(self.jobs[native_id].request, index))
        found = super(Stage, self).summaries(native_ids)
        self.asked.append(len(native_ids))
        return found


@pytest.fixture
def slow(store: Store) -> Slow:
    backend = Slow(store)
    backend.asked = []
    backend.is_open = False
    return backend


class Time:
    """Sleeping passes it, and nothing else."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def clock(self) -> float:
        return self.now


def followed(store: Store, backend: Stage, time: Time, ear: Ear, poll: float = 10.0) -> Watch:
    request = request_of(store)
    plan = look(request, backend).plan
    drive(request, backend, detach=True)
    jobs = submissions(store, live_run_ids(store)[0])
    backend.is_open = True
    watch = Watch(plan, backend, jobs, poll_seconds=poll, sleep=time.sleep, clock=time.clock)
    watch.until_over(ear)
    return watch


def test_a_look_is_one_call_for_all_jobs_and_ended_ones_are_not_asked_for_again(store: Store, slow: Slow) -> None:
    ear = Ear()
    followed(store, slow, Time(), ear)

    assert slow.asked[0] == 3
    assert sorted(slow.asked, reverse=True) == slow.asked
    assert slow.asked[-1] == 1
    assert slow.calls["children"] == 0


def test_children_are_listed_only_when_the_count_of_failed_ones_changed(store: Store, slow: Slow) -> None:
    slow.play = lambda step, sample, attempt: int((step, sample) == ("upper", "ann"))
    ear = Ear()
    watch = followed(store, slow, Time(), ear)

    # Once for each of the three jobs: upper's own failure, count's and total's on its account.
    assert slow.calls["children"] == 3
    assert len(slow.asked) > 5
    assert watch.poll()["upper"].failed == {EndReason.STEP_FAILED: 1}
    assert watch.poll()["count"].failed == {EndReason.DEPENDENCY: 1}


def test_the_listener_hears_of_changes_alone(store: Store, slow: Slow) -> None:
    ear = Ear()
    followed(store, slow, Time(), ear)

    # Three lines a change: one a step.
    rounds = [tuple(ear.lines[i : i + 3]) for i in range(0, len(ear.lines), 3)]
    assert all(a != b for a, b in pairwise(rounds))
    assert rounds[-1] == ("upper: 3/3 done", "count: 3/3 done", "total: 1/1 done")


def test_pauses_are_short_at_first_and_never_longer_than_the_setting(store: Store, slow: Slow) -> None:
    time = Time()
    slow.is_open = False
    request = request_of(store)
    plan = look(request, slow).plan
    drive(request, slow, detach=True)
    jobs = submissions(store, live_run_ids(store)[0])

    def sleep(seconds: float) -> None:
        time.sleep(seconds)
        if time.now > 100:
            slow.is_open = True

    Watch(plan, slow, jobs, poll_seconds=4, sleep=sleep, clock=time.clock).until_over(Ear())

    assert time.pauses[0] == SHORTEST
    assert max(time.pauses) == 4
    waiting = time.pauses[: time.pauses.index(4.0)]
    assert waiting == sorted(waiting), "while nothing ends, it looks ever less often"
    assert len(time.pauses) < 80


def test_a_job_that_is_left_out_again_and_again_and_not_found_by_name_is_lost(store: Store, stage: Stage) -> None:
    request = request_of(store)
    plan = look(request, stage).plan
    job = Submission(run_id="r", job="upper-0-0", step="upper", native_id="gone", queue="q", native_name="n")

    pauses: list[float] = []

    progress = Watch(plan, stage, [job], sleep=pauses.append).until_over(Ear())

    assert len(pauses) == OMISSIONS - 1
    assert stage.calls["find"] == 1
    assert progress["upper"].failures > 0
    assert set(progress["upper"].failed) == {EndReason.LOST}


def test_an_answer_that_leaves_a_job_out_says_nothing_about_it(store: Store, stage: Stage) -> None:
    request = request_of(store)
    stage.is_open = False
    drive(request, stage, detach=True)
    jobs = submissions(store, live_run_ids(store)[0])
    plan = look(request, stage).plan
    left_out = iter([True, True, True, True, False, True, True])

    class Forgetful(Stage):
        def summaries(self, native_ids: Sequence[str]) -> Mapping[str, JobSummary]:
            if next(left_out, False):
                return {native_id: forgotten(native_id) for native_id in native_ids}
            stage.is_open = True
            return stage.summaries(native_ids)

        def find(self, name: str, queue: str) -> str | None:
            return stage.find(name, queue)

    progress = Watch(plan, Forgetful(store), jobs, sleep=lambda seconds: None).until_over(Ear())

    assert {name: step.done for name, step in progress.items()} == {"upper": 3, "count": 3, "total": 1}
    assert not any(step.failures for step in progress.values())


def test_a_job_that_waits_while_nothing_runs_is_looked_into_once_in_a_while(store: Store, stage: Stage) -> None:
    request = request_of(store)
    stage.is_open = False
    drive(request, stage, detach=True)
    jobs = submissions(store, live_run_ids(store)[0])
    time = Time()
    asked: list[str] = []
    told: list[tuple[str, str]] = []

    class Hears(Ear):
        def stuck(self, step: str, sentence: str) -> None:
            told.append((step, sentence))

    def diagnose(job: Submission) -> str:
        asked.append(job.step)
        stage.is_open = len(asked) > 2
        return "the queue is disabled"

    def sleep(seconds: float) -> None:
        time.sleep(seconds)

    Watch(
        look(request, stage).plan,
        stage,
        jobs,
        poll_seconds=10,
        dwell_seconds=100,
        diagnose=diagnose,
        sleep=sleep,
        clock=time.clock,
    ).until_over(Hears())

    assert asked == ["upper"] * 3
    assert told == [("upper", "the queue is disabled")]
    assert time.now > 300


def test_cells_that_were_done_before_a_job_was_adopted_are_not_counted_twice(store: Store, stage: Stage) -> None:
    stage.play = lambda step, sample, attempt: int(sample == "bob")
    request = request_of(store)
    stage.is_open = False
    drive(request, stage, detach=True)
    native_id = next(iter(stage.jobs))
    stage.finish(native_id, 0, stage._act(stage.jobs[native_id].request, 0))
    ear = Ear()
    stage.is_open = True

    outcome = drive(request, stage, ear)

    assert outcome.progress["upper"].total == 3
    assert outcome.progress["upper"].line == "2/3 done, 1 failed: step failed"
    assert not [line for line in ear.lines if "/4" in line or "/5" in line or "/6" in line]


def test_joins_are_not_shown(store: Store, stage: Stage) -> None:
    plan = look(request_of(store), stage).plan
    join = Submission(run_id="r", job="j", step="total", native_id="x", queue="q", native_name="n", join=True)

    assert Watch(plan, stage, [join]).until_over(Ear())["total"].failures == 0
    assert stage.calls["summaries"] == 0
