"""The engine's promises, held against random jobs, outcomes and interruptions."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from batch_pipeline.localbatch.engine.job import (
    FAILED,
    NONE,
    PENDING,
    RUNNING,
    SUCCEEDED,
    TERMINAL,
    AttemptOutcome,
    BatchJob,
    Cancellation,
    Dependency,
    JobSpec,
)
from batch_pipeline.localbatch.engine.state_machine import Engine, Run
from batch_pipeline.localbatch.engine.units import Consumable
from tests.examples import examples

pytestmark = pytest.mark.properties

#: Consumable resources of `EngineLife`: never more units are held at once.
WIDTHS = {"one": 1, "two": 2}


def spec(number: int, **changes: Any) -> JobSpec:
    values: dict[str, Any] = {
        "id": f"job-{number}",
        "name": "job",
        "queue": "default",
        "size": 0,
        "vcpus": 1000,
        "memory_mib": 100,
        "created_ms": 0,
        "attempts": 1,
        "timeout_seconds": None,
        "impossible": False,
        "sequential": False,
        "dependencies": (),
        "rules": (),
        "command": (),
        "environment": {},
        "log_prefix": "tool/default",
        "shown": {},
        **changes,
    }
    return JobSpec(**values)


def engine_of(vcpus: int = 1, memory_mib: int = 1000) -> Engine:
    engine = Engine(vcpus=vcpus, memory_mib=memory_mib)
    engine.set_queue("default", 1)
    return engine


def restore(before: Engine, engine: Engine) -> None:
    """Takes in what was stored of another engine; `resume` is left to the caller."""
    for job in before.jobs.values():
        children = [job.child(index) for index in range(job.spec.count)]
        engine.restore(job.spec, children, cancellation=job.cancellation, status_reason=job.status_reason)


class EngineLife(RuleBasedStateMachine):
    """Submits, starts, ends, cancels and restores at random; the model is what was seen to start and end."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000
        self.engine = self.fresh()
        self.live: dict[tuple[str, int], Run] = {}
        self.attempts: dict[tuple[str, int], int] = {}
        self.cancelled: set[tuple[str, int]] = set()

    def fresh(self) -> Engine:
        engine = engine_of(vcpus=3)
        engine.units.consumables = {
            name: Consumable(total=total, is_replenishable=True) for name, total in WIDTHS.items()
        }
        return engine

    @rule(
        consumes=st.sampled_from([(), (("one", 1),), (("one", 1), ("two", 1)), (("two", 2),), (("two", 1),)]),
        size=st.sampled_from([0, 2, 2, 3]),
        vcpus=st.sampled_from([1000, 1000, 2000, 3000]),
        memory_mib=st.sampled_from([100, 100, 1000]),
        attempts=st.sampled_from([1, 1, 2]),
        sequential=st.booleans(),
        picks=st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(["all", "each", "child"])), max_size=3),
        timeout=st.sampled_from([None, 60]),
        fails_on_submit=st.sampled_from([None, None, None, "too long"]),
    )
    def submit(self, size: int, sequential: bool, picks: Any, timeout: int | None, **more: Any) -> None:
        jobs = list(self.engine.jobs.values())
        dependencies = []
        for pick, kind in picks if jobs else ():
            upstream = jobs[pick % len(jobs)].spec
            if kind == "each" and (not size or upstream.size != size):
                continue
            index = pick % upstream.size if kind == "child" and upstream.size else None
            dependencies.append(Dependency(job_id=upstream.id, index=index, each=kind == "each"))
        new = spec(
            len(jobs),
            size=size,
            sequential=sequential and size > 0,
            dependencies=tuple(dict.fromkeys(dependencies)),
            timeout_seconds=timeout,
            **more,
        )
        self.engine.submit(new, self.now)

    @rule()
    def schedule(self) -> None:
        for run in self.engine.schedule(self.now):
            assert run.key not in self.live, "a second attempt of a child that runs"
            assert self.may_run(run.job, run.index), "started before what it depends on"
            assert run.key not in self.cancelled, "started although it was cancelled"
            assert not run.job.spec.fails_on_submit
            self.attempts[run.key] = self.attempts.get(run.key, 0) + 1
            assert run.attempt == self.attempts[run.key] <= run.job.spec.attempts
            self.live[run.key] = run
            self.engine.began(run, self.now)

    def may_run(self, job: BatchJob, index: int) -> bool:
        for dependency in job.spec.dependencies:
            upstream = self.engine.jobs[dependency.job_id]
            wanted = index if dependency.each else dependency.index
            state = upstream.state if wanted is None else upstream.states[wanted]
            if state != SUCCEEDED:
                return False
        return not (job.spec.sequential and index and job.states[index - 1] != SUCCEEDED)

    @precondition(lambda self: self.live)
    @rule(pick=st.integers(0, 10**6), code=st.sampled_from([0, 0, 0, 1, 137, None]))
    def end(self, pick: int, code: int | None) -> None:
        key = list(self.live)[pick % len(self.live)]
        self.now += 1
        self.engine.end(self.live.pop(key), AttemptOutcome(exit_code=code), self.now)

    @precondition(lambda self: self.live)
    @rule(pick=st.integers(0, 10**6))
    def give_back(self, pick: int) -> None:
        key = list(self.live)[pick % len(self.live)]
        self.attempts[key] -= 1
        self.engine.give_back(self.live.pop(key), self.now)

    @precondition(lambda self: self.engine.jobs)
    @rule(pick=st.integers(0, 10**6), whole=st.booleans(), terminate=st.booleans())
    def cancel(self, pick: int, whole: bool, terminate: bool) -> None:
        job = list(self.engine.jobs.values())[pick % len(self.engine.jobs)]
        index = None if whole or not job.spec.size else pick % job.spec.size
        self.cancelled |= {(job.spec.id, each) for each in (range(job.spec.count) if index is None else [index])}
        self.engine.cancel(job, index, Cancellation(reason="enough", terminate=terminate), self.now)

    @rule(seconds=st.integers(1, 100))
    def wait(self, seconds: int) -> None:
        self.now += 1000 * seconds
        self.engine.stop_overdue(self.now)

    @rule()
    def stop(self) -> None:
        while self.engine.stops:
            run = self.engine.stops.pop()
            if self.live.pop(run.key, None):
                self.engine.end(run, AttemptOutcome(exit_code=143), self.now)
                assert run.job.states[run.index] == FAILED

    @rule()
    def restore(self) -> None:
        """The server dies; a new one restores what was stored and adopts what runs."""
        before = self.engine
        self.engine = self.fresh()
        restore(before, self.engine)
        for key, run in self.live.items():
            job = self.engine.jobs[key[0]]
            self.live[key] = self.engine.adopt(job, run.index, run.attempt, run.job.started[run.index], self.now)
        self.engine.resume(self.now)
        for job in before.jobs.values():
            again = self.engine.jobs[job.spec.id]
            terminal = [state if state in TERMINAL else None for state in job.states]
            assert [state if state in TERMINAL else None for state in again.states] == terminal
            assert again.earlier == job.earlier
            assert [list(map(asdict, again.attempts(i))) for i in range(job.spec.count)] == [
                list(map(asdict, job.attempts(i))) for i in range(job.spec.count)
            ]

    @invariant()
    def slots_are_not_exceeded(self) -> None:
        specs = [run.job.spec for run in self.live.values()]
        used = sum(each.vcpus for each in specs), sum(each.memory_mib for each in specs)
        assert used == self.engine.used
        assert used[0] <= 3000
        assert used[1] <= 1000

    @invariant()
    def units_are_not_exceeded(self) -> None:
        held: Counter[str] = Counter()
        for run in self.live.values():
            held.update(dict(run.job.spec.consumes))
        assert all(held[name] <= total for name, total in WIDTHS.items())
        assert held == self.engine.units.in_use

    @invariant()
    def counts_agree(self) -> None:
        for job in self.engine.jobs.values():
            assert job.counts == [list(job.states).count(state) for state in range(7)]

    def teardown(self) -> None:
        """Every job ends once nothing is cancelled and everything that starts ends."""
        for _ in range(10_000):
            self.stop()
            self.schedule()
            if not self.live:
                break
            self.end(0, 0)
        assert [job.spec.id for job in self.engine.live()] == []
        assert self.engine.used == (0, 0)


EngineLife.TestCase.settings = settings(examples(50), stateful_step_count=35)
TestEngineLife = EngineLife.TestCase


def test_an_array_costs_bytes_a_child() -> None:
    engine = engine_of()
    job = engine.submit(spec(0, size=10_000), 0)
    columns = (job.states, job.tries, job.blocked, job.started, job.stopped, job.exits, job.reason_ids)
    assert sum(memoryview(column).nbytes for column in columns) <= 32 * 10_000
    assert (job.earlier, job.cancellations) == ({}, {})


def test_a_sequential_array_of_ten_thousand_fails_without_recursion() -> None:
    engine = engine_of()
    job = engine.submit(spec(0, size=10_000, sequential=True), 0)
    (run,) = engine.schedule(0)
    assert job.counts[PENDING] == 9_999
    engine.began(run, 0)
    engine.end(run, AttemptOutcome(exit_code=1), 1)
    assert job.counts[FAILED] == 10_000


def test_the_queue_is_served_in_the_order_of_becoming_runnable() -> None:
    engine = engine_of()
    engine.submit(spec(0, size=2), 0)
    engine.submit(spec(1, size=2, dependencies=(Dependency(job_id="job-0", each=True),)), 0)
    engine.submit(spec(2), 0)
    order = []
    while runs := engine.schedule(0):
        order.append(runs[0].key)
        engine.began(runs[0], 0)
        engine.end(runs[0], AttemptOutcome(exit_code=0), 0)
    assert order == [("job-0", 0), ("job-0", 1), ("job-2", 0), ("job-1", 0), ("job-1", 1)]


def test_a_queue_of_higher_priority_goes_first() -> None:
    engine = engine_of()
    engine.set_queue("urgent", 9)
    engine.submit(spec(0), 0)
    engine.submit(spec(1, queue="urgent"), 0)
    assert [run.job.spec.id for run in engine.schedule(0)] == ["job-1"]


def test_a_job_that_needs_the_whole_machine_starts() -> None:
    engine = engine_of(vcpus=2, memory_mib=1000)
    engine.submit(spec(0, vcpus=2000, memory_mib=1000), 0)
    assert len(engine.schedule(0)) == 1


# What a new server makes of what the killed one had stored.


def after_crash(before: Engine) -> Engine:
    engine = engine_of(vcpus=9)
    restore(before, engine)
    engine.resume(9)
    return engine


def run_to_end(engine: Engine, exit_code: int = 0) -> list[tuple[str, int]]:
    """The children that were started, in order."""
    started = []
    while runs := engine.schedule(9):
        for run in runs:
            started.append(run.key)
            engine.began(run, 9)
            engine.end(run, AttemptOutcome(exit_code=exit_code), 9)
    return started


@pytest.mark.parametrize("size", [0, 2])
def test_a_doomed_job_of_which_a_killed_server_stored_no_child_fails(size: int) -> None:
    """It is stored before it is failed, so that a kill in between leaves it without an end."""
    engine = engine_of()
    engine.restore(spec(0, size=size, fails_on_submit="too long"), [], cancellation=None, status_reason=None)
    engine.restore(spec(1, dependencies=(Dependency(job_id="job-0"),)), [], cancellation=None, status_reason=None)
    engine.resume(9)
    assert engine.schedule(9) == []
    doomed, dependent = engine.jobs.values()
    assert (doomed.state, doomed.status_reason) == (FAILED, "too long")
    assert (dependent.state, dependent.status_reason) == (FAILED, "Dependent Job failed")
    assert ("job-0", 0) in engine.changed, "its end is to be stored"


def test_a_sequential_array_goes_on_in_its_order_after_a_crash() -> None:
    engine = engine_of(vcpus=9)
    engine.submit(spec(0, size=4, sequential=True), 0)
    (run,) = engine.schedule(0)
    engine.end(run, AttemptOutcome(exit_code=0), 1)
    engine = after_crash(engine)
    assert [run.key for run in engine.running.values()] == []
    (run,) = engine.schedule(9)
    assert run.key == ("job-0", 1)
    engine.end(run, AttemptOutcome(exit_code=0), 9)
    assert run_to_end(engine) == [("job-0", 2), ("job-0", 3)]
    assert engine.jobs["job-0"].state == SUCCEEDED


def test_what_follows_a_failed_child_of_a_sequential_array_fails_after_a_crash_too() -> None:
    """The failure was stored, or read in a worker's journal, and the next child's was not."""
    engine = engine_of(vcpus=9)
    job = engine.submit(spec(0, size=3, sequential=True), 0)
    (run,) = engine.schedule(0)
    engine.end(run, AttemptOutcome(exit_code=1), 1)
    children = [job.child(0)]
    engine = engine_of(vcpus=9)
    again = engine.restore(job.spec, children, cancellation=None, status_reason=None)
    engine.resume(9)
    assert run_to_end(engine) == []
    assert list(again.states) == [FAILED] * 3


@pytest.mark.parametrize("terminate", [False, True])
@pytest.mark.parametrize("index", [None, 1])
def test_what_was_cancelled_while_it_waited_is_not_started_after_a_crash(index: int | None, terminate: bool) -> None:
    engine = engine_of(vcpus=9)
    engine.submit(spec(0), 0)
    job = engine.submit(spec(1, size=2, dependencies=(Dependency(job_id="job-0"),)), 0)
    engine.cancel(job, index, Cancellation(reason="enough", terminate=terminate), 1)
    assert job.counts[PENDING] == 2
    engine = after_crash(engine)
    assert run_to_end(engine) == [("job-0", 0)] + ([("job-1", 0)] if index else [])
    job = engine.jobs["job-1"]
    assert job.states[1] == FAILED
    assert job.child(1).status_reason == "enough"
    assert job.status_reason == ("Array Child Job failed" if index else "enough")


def test_a_job_that_had_ended_stays_as_it_was_after_a_crash() -> None:
    engine = engine_of()
    engine.submit(spec(0, size=2), 0)
    (first,) = engine.schedule(0)
    engine.end(first, AttemptOutcome(exit_code=0, stopped_ms=5), 5)
    (second,) = engine.schedule(5)
    engine.end(second, AttemptOutcome(exit_code=1, stopped_ms=7), 7)
    engine = after_crash(engine)
    job = engine.jobs["job-0"]
    assert run_to_end(engine) == []
    assert (job.state, job.status_reason, job.stopped_ms) == (FAILED, "Array Child Job failed", 7)


@pytest.mark.parametrize("terminate", [False, True])
def test_a_running_attempt_is_stopped_again_after_a_crash_if_it_was_terminated(terminate: bool) -> None:
    engine = engine_of()
    job = engine.submit(spec(0, attempts=3), 0)
    (run,) = engine.schedule(0)
    engine.began(run, 0)
    engine.cancel(job, None, Cancellation(reason="enough", terminate=terminate), 1)
    before, engine = engine, engine_of()
    restore(before, engine)
    run = engine.adopt(engine.jobs["job-0"], 0, 1, 0, 9)
    engine.resume(9)
    assert engine.stops == ([run] if terminate else [])
    engine.end(run, AttemptOutcome(exit_code=0), 9)
    assert run.job.state == (FAILED if terminate else SUCCEEDED)


def test_an_adopted_attempt_runs_on_with_the_rest_of_its_time() -> None:
    engine = engine_of()
    job = engine.restore(spec(0, timeout_seconds=60), [], cancellation=None, status_reason=None)
    run = engine.adopt(job, 0, 1, 5_000, 30_000)
    engine.resume(30_000)
    assert (job.states[0], job.started[0], job.tries[0]) == (RUNNING, 5_000, 1)
    assert engine.next_deadline() == 65_000
    engine.stop_overdue(64_999)
    assert engine.stops == []
    engine.stop_overdue(65_000)
    assert engine.stops == [run]
    assert engine.next_deadline() is None


@pytest.mark.parametrize("exit_code", [0, 143])
def test_what_was_terminated_and_died_with_the_server_is_not_tried_again(exit_code: int) -> None:
    """Its end is read in a worker's journal, before the engine resumes."""
    engine = engine_of()
    cancellation = Cancellation(reason="enough", terminate=True)
    job = engine.restore(spec(0, attempts=3), [], cancellation=cancellation, status_reason=None)
    run = engine.adopt(job, 0, 1, 0, 9)
    engine.end(run, AttemptOutcome(exit_code=exit_code, started_ms=1, stopped_ms=2), 9)
    engine.resume(9)
    assert engine.schedule(9) == []
    (attempt,) = job.attempts(0)
    assert (job.state, attempt.status_reason) == (FAILED, "enough")
    assert (attempt.started_ms, attempt.stopped_ms) == (1, 2)


# Attempts.


def test_an_attempt_that_ended_before_it_was_seen_to_begin_began_when_it_says() -> None:
    engine = engine_of()
    job = engine.submit(spec(0, size=2), 0)
    (run,) = engine.schedule(0)
    engine.end(run, AttemptOutcome(exit_code=0), 7)
    (run,) = engine.schedule(7)
    engine.began(run, 8)
    engine.end(run, AttemptOutcome(exit_code=0, started_ms=3), 9)
    assert list(job.started) == [7, 3]
    assert list(job.stopped) == [7, 9]


def test_an_attempt_that_is_tried_again_is_stored_and_its_words_are_its_own() -> None:
    engine = engine_of()
    job = engine.submit(spec(0, attempts=2), 0)
    (run,) = engine.schedule(0)
    engine.changed.clear()
    engine.end(run, AttemptOutcome(exit_code=1, reason="too much"), 5)
    assert list(engine.changed) == [("job-0", 0)], "a server that is killed now must not try it twice more"
    engine.schedule(6)
    assert job.child(0).reason is None
    assert [attempt.reason for attempt in job.attempts(0)] == ["too much"]


def test_what_is_cancelled_while_it_runs_is_not_tried_again_when_it_fails() -> None:
    engine = engine_of()
    job = engine.submit(spec(0, attempts=3), 0)
    (run,) = engine.schedule(0)
    engine.cancel(job, None, Cancellation(reason="enough", terminate=False), 1)
    assert engine.stops == []
    engine.end(run, AttemptOutcome(exit_code=1), 2)
    assert (job.state, job.status_reason) == (FAILED, "enough")
    assert run_to_end(engine) == []


def test_what_is_cancelled_between_two_attempts_keeps_what_is_known_of_the_first() -> None:
    engine = engine_of()
    job = engine.submit(spec(0, attempts=2), 0)
    (run,) = engine.schedule(0)
    engine.end(run, AttemptOutcome(exit_code=1, reason="too much"), 5)
    engine.cancel(job, None, Cancellation(reason="enough", terminate=False), 6)
    assert [(attempt.exit_code, attempt.reason) for attempt in job.attempts(0)] == [(1, "too much")]
    assert (job.child(0).status_reason, job.stopped[0], job.stopped_ms) == ("enough", NONE, 6)


def test_what_never_started_has_no_attempt_and_ended_when_it_was_cancelled() -> None:
    engine = engine_of()
    engine.submit(spec(0), 0)
    job = engine.submit(spec(1, size=2), 0)
    engine.schedule(0)
    engine.cancel(job, 1, Cancellation(reason="enough", terminate=False), 6)
    assert (job.stopped[1], job.attempts(1)) == (6, [])


def test_a_doomed_job_has_ended_as_soon_as_it_was_submitted() -> None:
    engine = engine_of()
    job = engine.submit(spec(0, fails_on_submit="too long"), 5)
    assert (job.state, job.status_reason, job.stopped_ms) == (FAILED, "too long", 5)
    assert "job-0" in engine.changed_jobs


def test_what_is_given_back_after_it_was_cancelled_fails_and_so_does_what_waits_for_it() -> None:
    engine = engine_of()
    job = engine.submit(spec(0), 0)
    dependent = engine.submit(spec(1, dependencies=(Dependency(job_id="job-0"),)), 0)
    (run,) = engine.schedule(0)
    engine.cancel(job, None, Cancellation(reason="enough", terminate=True), 1)
    engine.give_back(run, 2)
    assert (job.state, job.child(0).status_reason) == (FAILED, "enough")
    assert (dependent.state, dependent.status_reason) == (FAILED, "Dependent Job failed")
    assert engine.used == (0, 0)


# Jobs as a whole.


def test_a_job_ended_with_the_last_of_its_children_and_not_before_it_was_known() -> None:
    engine = engine_of(vcpus=9)
    ended_ms = []
    for number, stopped in enumerate([(5, 7), (12, 8)]):
        job = engine.submit(spec(number, size=2), 0)
        for run, stopped_ms in zip(engine.schedule(0), stopped, strict=True):
            engine.changed_jobs.clear()
            engine.end(run, AttemptOutcome(exit_code=0, stopped_ms=stopped_ms), 9)
        ended_ms.append(job.stopped_ms)
        assert list(engine.changed_jobs) == [job.spec.id], "its end is to be stored"
    assert ended_ms == [9, 12]


def test_why_a_job_was_not_started_is_no_word_on_how_it_ended() -> None:
    engine = engine_of()
    job = engine.submit(spec(0), 0)
    engine.annotate("default", "CAPACITY")
    assert engine.jobs["job-0"].status_reason == "CAPACITY"
    run_to_end(engine)
    assert (job.state, job.status_reason) == (SUCCEEDED, None)


@pytest.mark.parametrize("index", [None, 1])
def test_an_order_to_cancel_is_stored_although_nothing_came_of_it_yet(index: int | None) -> None:
    """A server that is killed now would else go on with what somebody ended."""
    engine = engine_of(vcpus=9)
    job = engine.submit(spec(0, size=2), 0)
    engine.schedule(0)
    engine.changed_jobs.clear()
    engine.cancel(job, index, Cancellation(reason="enough", terminate=False), 1)
    assert list(engine.changed_jobs) == (["job-0"] if index is None else [])
    assert list(engine.changed) == ([] if index is None else [("job-0", 1)])


def test_what_waits_for_a_cancelled_job_fails_at_once() -> None:
    engine = engine_of()
    job = engine.submit(spec(0), 0)
    dependent = engine.submit(spec(1, dependencies=(Dependency(job_id="job-0"),)), 0)
    engine.cancel(job, None, Cancellation(reason="enough", terminate=False), 1)
    assert (dependent.state, dependent.status_reason, dependent.stopped_ms) == (FAILED, "Dependent Job failed", 1)


def test_the_next_deadline_is_the_first_of_all_that_run() -> None:
    engine = engine_of(vcpus=9)
    for number, seconds in enumerate([90, 60, None]):
        engine.submit(spec(number, timeout_seconds=seconds), 0)
    for run in engine.schedule(0):
        engine.began(run, 0)
    assert engine.next_deadline() == 60_000
    engine.stop_overdue(60_000)
    assert [run.key for run in engine.stops] == [("job-1", 0)]
    assert engine.next_deadline() == 90_000
