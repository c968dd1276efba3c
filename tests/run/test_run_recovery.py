"""What goes again, with what, and how often: the rules, and whole commands on a virtual Batch that misbehaves."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline import WorkflowTask
from batch_pipeline.config import load_settings
from batch_pipeline.pipeline.plan import RetryOverrides
from batch_pipeline.pipeline.samples import SampleList
from batch_pipeline.pipeline.workflow import Graph, Node, Port, Task
from batch_pipeline.records.events import FailedCell, RetrySummary
from batch_pipeline.records.request import Request
from batch_pipeline.report.tables import root_causes
from batch_pipeline.run.recovery import RetryPolicy, partition_failures, remembered
from batch_pipeline.run.verdict import read_failed
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.store import Store
from tests.run.small import Letters, Share, Total, Upper, request_of
from tests.run.virtual import BUG, OUT_OF_MEMORY, SPOT, Attempt, Death, Hears, Trouble, World

POLICY = RetryPolicy(
    memory_factor=2.0,
    memory_cap_mb=0,
    queue="mixed",
    on_demand_queue="",
    defined_mb={"upper": 1000, "count": 1000, "total": 500},
)


def failed(step: str, sample: str, reason: EndReason, **more: Any) -> FailedCell:
    return FailedCell(step=step, sample=sample, reason=reason, message="", **more)


# The rules.


def test_a_cell_without_memory_gets_more_up_to_the_cap() -> None:
    cell = failed("upper", "ann", EndReason.OUT_OF_MEMORY, memory_mb=1000, queue="q")
    assert POLICY.overrides_for(cell) == RetryOverrides(memory_mb=2000, queue="q")
    assert replace(POLICY, memory_cap_mb=1500).overrides_for(cell) == RetryOverrides(memory_mb=1500, queue="q")
    assert replace(POLICY, memory_cap_mb=1000).overrides_for(cell) is None
    assert replace(POLICY, memory_factor=1.0).overrides_for(cell) is None
    assert replace(POLICY, active=False).overrides_for(cell) is None


def test_a_definition_that_gives_more_by_now_is_taken_as_it_is() -> None:
    cell = failed("upper", "ann", EndReason.OUT_OF_MEMORY, memory_mb=300)
    assert POLICY.overrides_for(cell) == RetryOverrides(memory_mb=None)


def test_what_its_definition_gives_is_no_remedy_of_its_own() -> None:
    """Cells with the same remedy become one array, and the definition's own memory is none."""
    cell = failed("upper", "ann", EndReason.OUT_OF_MEMORY, memory_mb=500)
    assert POLICY.overrides_for(cell) == RetryOverrides(memory_mb=None)


def test_a_step_of_which_nobody_knows_the_memory_gets_no_more_of_it() -> None:
    assert POLICY.overrides_for(failed("other", "ann", EndReason.OUT_OF_MEMORY)) is None
    assert POLICY.overrides_for(failed("other", "ann", EndReason.INTERRUPTED)) == RetryOverrides()


@pytest.mark.parametrize("reason", [EndReason.INTERRUPTED, EndReason.LOST, EndReason.STORE])
def test_an_interrupted_cell_keeps_its_memory_and_goes_where_nothing_is_reclaimed(reason: EndReason) -> None:
    policy = replace(POLICY, on_demand_queue="steady")
    assert policy.overrides_for(failed("upper", "ann", reason, memory_mb=1000, queue="spot")) == RetryOverrides(
        queue="steady"
    )
    assert policy.overrides_for(failed("upper", "ann", reason, memory_mb=4000)) == RetryOverrides(
        memory_mb=4000, queue="steady"
    )
    assert POLICY.overrides_for(failed("upper", "ann", reason, queue="spot")) == RetryOverrides(queue="spot")
    assert POLICY.overrides_for(failed("upper", "ann", reason, queue="mixed")) == RetryOverrides()


@pytest.mark.parametrize(
    "reason",
    [
        EndReason.STEP_FAILED,
        EndReason.INVALID_OUTPUT,
        EndReason.MISSING_INPUT,
        EndReason.DISK_FULL,
        EndReason.TIMEOUT,
        EndReason.IMAGE,
        EndReason.CONTRACT,
        EndReason.CANCELLED,
    ],
)
def test_what_would_end_so_again_is_left_alone(reason: EndReason) -> None:
    assert POLICY.overrides_for(failed("upper", "ann", reason)) is None


def test_what_never_ran_goes_with_its_cause_and_a_gather_when_nothing_stays_failed() -> None:
    graph = Graph.of(Letters, {})
    own = failed("upper", "bob", EndReason.STEP_FAILED)
    cells = [
        failed("upper", "ann", EndReason.OUT_OF_MEMORY, memory_mb=1000),
        failed("count", "ann", EndReason.DEPENDENCY, because_of="upper"),
        failed("count", "bob", EndReason.DEPENDENCY, because_of="upper"),
        failed("total", layout.COHORT, EndReason.DEPENDENCY, because_of="count"),
    ]
    found = partition_failures(graph, [own, *cells], POLICY)
    assert [(cell.step, cell.sample) for cell in found.retried] == [("upper", "ann"), ("count", "ann")]
    assert len(found.lasting) == 3
    found = partition_failures(graph, [cells[0], cells[1], cells[3]], POLICY)
    assert len(found.retried) == 3
    assert not found.lasting


class Fanned(WorkflowTask):
    """A step of the samples below a gather."""

    def workflow(self) -> None:
        read, total, share = self.new_task("read", Upper), self.new_task("total", Total), self.new_task("share", Share)
        read.in_text = self.source("{sample}.txt")
        total.in_counts = read.out_upper
        share.in_total = total.out_total


def test_what_fans_out_below_a_gather_goes_again_with_it() -> None:
    graph = Graph.of(Fanned, {})
    hungry = failed("read", "ann", EndReason.OUT_OF_MEMORY, memory_mb=1000)
    below = [
        failed("total", layout.COHORT, EndReason.DEPENDENCY, because_of="read"),
        *(failed("share", sample, EndReason.DEPENDENCY, because_of="read") for sample in ("ann", "bob")),
    ]
    found = partition_failures(graph, [hungry, *below], POLICY)
    assert found.retried == [hungry, *below]
    assert not found.lasting
    own = failed("read", "bob", EndReason.STEP_FAILED)
    found = partition_failures(graph, [hungry, own, *below], POLICY)
    assert found.retried == [hungry]
    assert found.lasting == [own, *below]


class SomeTotal(Total):
    """Adds up what is there."""

    tolerant = True


class Lenient(WorkflowTask):
    """A gather that does without samples that failed."""

    def workflow(self) -> None:
        read, total = self.new_task("read", Upper), self.new_task("total", SomeTotal)
        read.in_text = self.source("{sample}.txt")
        total.in_counts = read.out_upper


def test_a_tolerant_gather_goes_again_for_the_samples_that_are_left() -> None:
    own = failed("read", "ann", EndReason.STEP_FAILED)
    total = failed("total", layout.COHORT, EndReason.DEPENDENCY, because_of="read")
    found = partition_failures(Graph.of(Lenient, {}), [own, total], POLICY)
    assert (found.retried, found.lasting, found.overrides) == ([total], [own], {})
    itself = failed("total", layout.COHORT, EndReason.STEP_FAILED)
    assert partition_failures(Graph.of(Lenient, {}), [itself], POLICY).lasting == [itself]


def test_what_never_ran_for_a_cause_that_is_not_known_stays_failed() -> None:
    alone = failed("count", "ann", EndReason.DEPENDENCY)
    assert partition_failures(Graph.of(Letters, {}), [alone], POLICY).lasting == [alone]


def test_failures_of_hundreds_of_steps_are_sorted_at_once() -> None:
    """Each layer of three steps reads the three before it: there are 3 ** 66 ways from the first to the last."""
    layers = [[f"s{layer}-{i}" for i in range(3)] for layer in range(67)]
    tasks = {name: Task(name, Upper) for layer in layers for name in layer}
    nodes = [
        Node(
            name=name,
            step=Upper(),
            inputs={f"p{i}": Port(tasks[above], "out") for i, above in enumerate(layers[number - 1] if number else ())},
        )
        for number, layer in enumerate(layers)
        for name in layer
    ]
    nodes.append(Node(name="all", step=Total(), inputs={"read": Port(tasks["s66-0"], "out")}))
    graph = Graph(name="Layers", root=Path("/"), nodes=tuple(nodes))
    cells = [failed("s0-0", "ann", EndReason.OUT_OF_MEMORY, memory_mb=1)]
    cells += [failed(name, "ann", EndReason.DEPENDENCY) for layer in layers[1:] for name in layer]
    cells.append(failed("all", layout.COHORT, EndReason.DEPENDENCY))
    assert partition_failures(graph, cells, replace(POLICY, defined_mb={})).retried == cells


def test_only_the_newest_word_on_a_cell_counts() -> None:
    past = [
        failed("upper", "ann", EndReason.STEP_FAILED),
        failed("upper", "ann", EndReason.OUT_OF_MEMORY, memory_mb=1000),
        failed("upper", "bob", EndReason.OUT_OF_MEMORY, memory_mb=4000),
        failed("upper", "cid", EndReason.OUT_OF_MEMORY, memory_mb=4000),
    ]
    wanted = lambda: [("upper", "ann"), ("upper", "bob")]  # noqa: E731
    assert remembered(past, wanted, POLICY) == {("upper", "bob"): RetryOverrides(memory_mb=8000)}


def test_a_line_says_how_many_go_again_with_what_and_why() -> None:
    line = RetrySummary(step="upper", reason=EndReason.OUT_OF_MEMORY, cells=1200, memory_mb=8192, queue="steady").line
    assert line == "upper: 1,200 cells sent again with 8,192 MiB to queue steady (out of memory)"


# Whole commands.


@pytest.fixture
def virtual_time(monkeypatch: pytest.MonkeyPatch) -> list[World]:
    """Lets waiting between tries pass the virtual time, botocore's included; the test puts its world in."""
    from botocore.retries.adaptive import ClientRateLimiter

    worlds: list[World] = []

    def sleep(seconds: float) -> None:
        worlds[0].batch.advance(max(seconds, 0.001))

    monkeypatch.setattr(time, "sleep", sleep)
    # The adaptive mode's own pace goes by the real time, of which nothing passes here.
    monkeypatch.setattr(ClientRateLimiter, "on_sending_request", lambda self, **_: None)
    return worlds


def with_settings(request: Request, **settings: Any) -> Request:
    told = {"watch.poll_seconds": 30, **{key.replace("__", "."): value for key, value in settings.items()}}
    return replace(request, settings=load_settings(told, environ={}))


def test_cells_without_memory_go_again_together_with_more(store: Store, virtual_time: list[World]) -> None:
    def play(attempt: Attempt) -> Death | None:
        hungry = attempt.step == "upper" and attempt.sample in ("s1", "s3", "s4")
        return OUT_OF_MEMORY if hungry and attempt.memory_mb < 4000 else None

    world = World(store, play)
    virtual_time.append(world)
    names = [f"s{i}" for i in range(6)]
    ear = Hears()

    outcome = world.drive(with_settings(request_of(store, *names, samples=SampleList.of(names))), ear)

    assert outcome.ok
    assert not world.twice
    defined = world.attempts[0].memory_mb
    tried = [(a.sample, a.memory_mb // defined) for a in world.attempts if a.step == "upper" and a.sample in "s1 s3 s4"]
    assert sorted(set(tried)) == sorted((s, m) for s in ("s1", "s3", "s4") for m in (1, 2, 4)[: len(set(tried)) // 3])
    assert world.calls()["SubmitJob"] == 3 + 3 * len(ear.again_lines), "an array a step, whoever goes again"
    assert {line.cells for line in ear.again_lines} == {3}
    assert tuple(ear.again_lines) == outcome.again
    assert {cell.memory_mb for cell in read_failed(store, outcome.run_ids[0])} == {defined}


def test_what_fans_out_below_a_gather_is_made_by_the_same_command(store: Store, virtual_time: list[World]) -> None:
    def play(attempt: Attempt) -> Death | None:
        return OUT_OF_MEMORY if (attempt.step, attempt.sample) == ("read", "ann") and attempt.memory_mb < 2000 else None

    world = World(store, play)
    virtual_time.append(world)
    request = replace(request_of(store, "ann", "bob"), workflow=Fanned, graph=Graph.of(Fanned, {}))
    outcome = world.drive(with_settings(request))
    assert outcome.ok
    assert [line.line for line in outcome.again] == ["read: 1 cell sent again with 2,048 MiB (out of memory)"]
    assert {attempt.step for attempt in world.attempts} == {"read", "total", "share"}


@pytest.mark.parametrize("rounds", [0, 3])
def test_a_tolerant_gather_is_sent_at_once_and_made_without_samples_that_failed(
    store: Store, virtual_time: list[World], rounds: int
) -> None:
    broken = {("read", "ann")}
    world = World(store, lambda attempt: BUG if (attempt.step, attempt.sample) in broken else None)
    virtual_time.append(world)
    request = replace(request_of(store, "ann", "bob", "cid"), workflow=Lenient, graph=Graph.of(Lenient, {}))
    request = with_settings(request, recovery__rounds=rounds)

    outcome = world.drive(request)

    assert [(cell.step, cell.sample) for cell in outcome.failed] == [("read", "ann")]
    assert not outcome.again
    assert world.calls()["SubmitJob"] == 3, "the gather twice: with all samples, then with those that are left"
    assert store.list(layout.receipts("total", layout.COHORT))

    broken.clear()
    assert world.drive(request).ok
    assert world.calls()["SubmitJob"] == 5


def test_what_fans_out_below_a_gather_names_the_cause(store: Store, virtual_time: list[World]) -> None:
    world = World(store, lambda attempt: BUG if (attempt.step, attempt.sample) == ("read", "ann") else None)
    virtual_time.append(world)
    request = replace(request_of(store, "ann", "bob"), workflow=Fanned, graph=Graph.of(Fanned, {}))
    outcome = world.drive(with_settings(request))
    assert not outcome.ok
    assert {(cell.step, cell.sample): cell.because_of for cell in outcome.failed} == {
        ("read", "ann"): "",
        ("total", layout.COHORT): "read",
        ("share", "ann"): "read",
        ("share", "bob"): "read",
    }
    assert root_causes(outcome.failed)[-1] == "share: 2 not run: 2 because read failed"


def test_a_later_command_remembers_how_much_was_too_little(store: Store, virtual_time: list[World]) -> None:
    def play(attempt: Attempt) -> Death | None:
        return OUT_OF_MEMORY if (attempt.step, attempt.sample) == ("count", "bob") else None

    world = World(store, play)
    virtual_time.append(world)
    request = with_settings(request_of(store), recovery__rounds=1)
    first = world.drive(request)
    assert [(cell.step, cell.reason) for cell in first.failed if cell.reason is not EndReason.DEPENDENCY] == [
        ("count", EndReason.OUT_OF_MEMORY)
    ]
    world.play = lambda attempt: None
    assert world.drive(request).ok
    given = [a.memory_mb for a in world.attempts if (a.step, a.sample) == ("count", "bob")]
    assert given == [given[0], 2 * given[0], 4 * given[0]]


def test_nothing_goes_again_when_told_so(store: Store, virtual_time: list[World]) -> None:
    world = World(store, lambda attempt: OUT_OF_MEMORY if attempt.step == "count" else None)
    virtual_time.append(world)
    outcome = world.drive(with_settings(request_of(store), recovery__rounds=0))
    assert Counter(cell.reason for cell in outcome.failed) == {EndReason.OUT_OF_MEMORY: 3, EndReason.DEPENDENCY: 1}
    assert world.calls()["SubmitJob"] == 3
    assert not outcome.again


def test_what_cannot_be_sent_again_stays_failed_with_its_cause(store: Store, virtual_time: list[World]) -> None:
    def play(attempt: Attempt) -> Death | None:
        # Somebody disables the queue half-way; what is on it goes on.
        if attempt.step == "count":
            world.batch.batch.registry.change_queue({"jobQueue": attempt.queue, "state": "DISABLED"})
        return OUT_OF_MEMORY if attempt.sample == "ann" else None

    world = World(store, play)
    virtual_time.append(world)
    outcome = world.drive(with_settings(request_of(store)))
    assert "DISABLED" in outcome.stopped_by
    assert not outcome.ok
    assert [(cell.step, cell.sample) for cell in outcome.failed if cell.reason is EndReason.OUT_OF_MEMORY] == [
        ("upper", "ann")
    ]
    world.batch.batch.registry.change_queue({"jobQueue": world.attempts[0].queue, "state": "ENABLED"})
    world.play = lambda attempt: None
    assert world.drive(with_settings(request_of(store))).ok


def test_a_run_that_waits_for_a_disabled_environment_says_so_and_goes_on_when_it_is_mended(
    store: Store, virtual_time: list[World]
) -> None:
    world = World(store)
    virtual_time.append(world)
    told: list[tuple[str, str]] = []
    client = world.batch.client()
    client.update_compute_environment(computeEnvironment="embedded", state="DISABLED")

    class Mends(Hears):
        def stuck(self, step: str, sentence: str) -> None:
            told.append((step, sentence))
            client.update_compute_environment(computeEnvironment="embedded", state="ENABLED")

    assert world.drive(with_settings(request_of(store), watch__dwell_seconds=600), Mends()).ok
    assert [step for step, _ in told] == ["upper"]
    assert "embedded" in told[0][1]
    assert "DISABLED" in told[0][1] or "disabled" in told[0][1]


# A bad day: everything at once, on a thousand samples.


class Cohort(WorkflowTask):
    """Three steps in a row."""

    def workflow(self) -> None:
        one, two, three = (self.new_task(name, Upper) for name in ("one", "two", "three"))
        one.in_text = self.source("{sample}.txt")
        two.in_text = one.out_upper
        three.in_text = two.out_upper


SAMPLES = 1000


class BadDay:
    """Fates by a sample's number: some are reclaimed, some hungry, some buggy; one node takes its children along."""

    def __init__(self) -> None:
        self.numbers = {f"s{i:04d}": i for i in range(SAMPLES)}

    def buggy(self, step: str, sample: str) -> bool:
        """5 %, in the second step."""
        return step == "two" and self.numbers[sample] % 20 == 7

    def hungry(self, step: str, sample: str) -> bool:
        """10 %, in the first step."""
        return step == "one" and self.numbers[sample] % 10 == 3

    def reclaimed(self, step: str, sample: str) -> bool:
        """20 %, in every step, once; one in a hundred as long as it is on Spot."""
        return self.numbers[sample] % 5 == 1

    def __call__(self, attempt: Attempt) -> Death | None:
        number = self.numbers[attempt.sample]
        unlucky = attempt.attempt == 1 or (number % 100 == 21 and attempt.step == "three")
        if self.reclaimed(attempt.step, attempt.sample) and attempt.queue != "steady" and unlucky:
            return SPOT
        if attempt.step == "three" and 500 <= number < 516 and attempt.attempt == 1:
            return Death(status_reason="Host EC2 (instance i-0fedcba9876543210) terminated.")
        if self.hungry(attempt.step, attempt.sample) and attempt.memory_mb < 3000:
            return OUT_OF_MEMORY
        return BUG if self.buggy(attempt.step, attempt.sample) else None


def test_a_bad_day_ends_with_the_right_cells_done_and_every_cause_named(
    store: Store, virtual_time: list[World]
) -> None:
    day = BadDay()
    world = World(store, day)
    virtual_time.append(world)
    trouble = Trouble()
    world.batch.faults = trouble
    names = list(day.numbers)
    for name in names:
        store.put(f"SR/{name}.txt", b"text")
    request = with_settings(
        request_of(store, names[0], workflow=Cohort, graph=Graph.of(Cohort, {}), samples=SampleList.of(names)),
        backend__on_demand_queue="steady",
        recovery__memory_factor=2.0,
    )
    ear = Hears()

    outcome = world.drive(request, ear)

    buggy = {name for name in names if day.buggy("two", name)}
    reasons = Counter((cell.step, cell.reason) for cell in outcome.failed)
    assert reasons == {("two", EndReason.STEP_FAILED): len(buggy), ("three", EndReason.DEPENDENCY): len(buggy)}
    assert {cell.sample for cell in outcome.failed} == buggy
    done = Counter(entry.key.split("/")[1] for entry in store.list("receipts/"))
    assert done == {"one": SAMPLES, "two": SAMPLES - len(buggy), "three": SAMPLES - len(buggy)}
    assert not world.twice, "no cell is worked on by two attempts at once"
    # Each cause is named with its count.
    again: Counter[tuple[str, EndReason]] = Counter()
    for line in outcome.again:
        again[line.step, line.reason] += line.cells
    assert again["three", EndReason.INTERRUPTED] == len([n for n in day.numbers.values() if n % 100 == 21])
    assert again["one", EndReason.OUT_OF_MEMORY] >= SAMPLES // 10
    assert not again["two", EndReason.STEP_FAILED]
    assert outcome.progress["two"].line == f"{SAMPLES - len(buggy)}/{SAMPLES} done, {len(buggy)} failed: step failed"
    # Every fault was met, and nothing was sent twice for it.
    assert min(trouble.done[word] for word in ("throttled", "lost", "omitted")) > 0
    queued = Counter(call.parameters["jobName"] for call in world.batch.calls if call.operation == "SubmitJob")
    jobs = {job.spec.name for job in world.batch.batch.engine.jobs.values()}
    assert len(jobs) == len(world.batch.batch.engine.jobs), "each name is queued once"
    assert set(queued) == jobs
    # And another command finds nothing but the bug.
    world.batch.faults = None
    calls = world.calls()["SubmitJob"]
    world.play = lambda attempt: None
    assert world.drive(request).ok
    assert world.calls()["SubmitJob"] - calls == 2
