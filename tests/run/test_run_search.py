"""Searching the logs of a cohort."""

from __future__ import annotations

import re

import pytest

from batch_pipeline import backends
from batch_pipeline.run import search as module
from batch_pipeline.run.search import logs_of, search
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.store import Store
from tests.run.small import Stage, drive, request_of


@pytest.fixture(autouse=True)
def _their_backend_is_the_stage(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "create", lambda settings: stage)


def found(store: Store, pattern: str | None = None, **chosen: object) -> list[tuple[str, str, int, str]]:
    wanted = logs_of(store, **chosen)  # type: ignore[arg-type]
    compiled = re.compile(pattern) if pattern else None
    lines = search(store, request_of(store).settings, wanted, compiled)
    return [(line.step, line.sample, line.attempt, line.text) for line in lines]


def test_lines_come_step_by_step_and_sample_by_sample(store: Store, stage: Stage) -> None:
    drive(request_of(store), stage)

    assert found(store, "says") == [
        *(("upper", name, 1, f"upper says {name}") for name in ("ann", "bob", "cid")),
        *(("count", name, 1, f"count says {name}") for name in ("ann", "bob", "cid")),
        ("total", "_cohort", 1, "total says _cohort"),
    ]
    assert found(store, "says (ann|cid)", steps=("count",)) == [
        ("count", "ann", 1, "count says ann"),
        ("count", "cid", 1, "count says cid"),
    ]
    assert len(found(store, samples=frozenset({"bob"}))) == 4
    assert found(store, "never said") == []


def test_the_newest_run_and_last_attempt_count_unless_others_are_asked_for(store: Store, stage: Stage) -> None:
    (old,) = drive(request_of(store), stage).run_ids
    (new,) = drive(request_of(store, params={"depth": 2}), stage).run_ids
    store.put(layout.log(new, "count", "ann", 2), b"second\n")
    store.put(layout.log(new, "count", "ann", 10), b"tenth\n")

    assert found(store, steps=("count",), samples=frozenset({"ann"})) == [("count", "ann", 10, "tenth")]
    of_all = found(store, steps=("count",), samples=frozenset({"ann"}), all_attempts=True)
    assert [(attempt, text) for _, _, attempt, text in of_all] == [
        (1, "count says ann"),
        (1, "and goes"),
        (2, "second"),
        (10, "tenth"),
    ]
    assert found(store, "says", steps=("count",), samples=frozenset({"ann"}), run_id=old) == [
        ("count", "ann", 1, "count says ann")
    ]
    assert found(store, "says", steps=("upper",), samples=frozenset({"ann"})), "an older run made it"


def test_failed_cells_alone(store: Store, stage: Stage) -> None:
    stage.play = lambda step, sample, attempt: 3 * (sample == "bob")
    drive(request_of(store), stage)

    assert found(store, failed=True) == [("upper", "bob", 1, "upper says bob"), ("upper", "bob", 1, "and goes")]


def test_a_killed_cells_lines_are_the_backends(store: Store, stage: Stage) -> None:
    stage.play = lambda step, sample, attempt: 9 * (sample == "bob")
    stage.silent = {"bob"}
    (run_id,) = drive(request_of(store), stage).run_ids
    store.delete([layout.log(run_id, "upper", "bob", 1)])
    next(iter(stage.jobs.values())).children[1].log += ["java.lang.OutOfMemoryError: Java heap space", "bye"]

    assert found(store, "OutOfMemory") == [("upper", "bob", 1, "java.lang.OutOfMemoryError: Java heap space")]
    stage.jobs.clear()
    assert found(store, "OutOfMemory") == []


def test_a_log_with_more_matches_than_are_kept_is_told_whole_and_in_its_turn(
    store: Store, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_CHARACTERS", 100)
    (run_id,) = drive(request_of(store), stage).run_ids
    long = [f"line {number}" for number in range(1000)]
    store.put(layout.log(run_id, "upper", "ann", 1), "\r\n".join(long).encode() + b"\xff")

    told = found(store, steps=("upper",))

    assert [text for _, sample, _, text in told if sample == "ann"] == [*long[:-1], "line 999\ufffd"]
    assert [sample for _, sample, _, _ in told] == ["ann"] * 1000 + ["bob"] * 2 + ["cid"] * 2


def test_more_logs_than_are_read_ahead_are_all_told(store: Store, stage: Stage) -> None:
    names = [f"s{number:03}" for number in range(3 * module.AHEAD)]
    drive(request_of(store, *names), stage)

    assert [sample for _, sample, _, _ in found(store, "says", steps=("upper",))] == names


def test_a_run_or_step_that_is_not_there_is_told(store: Store, stage: Stage) -> None:
    drive(request_of(store), stage)
    with pytest.raises(InvalidUse, match=r"There is no step 'cuont' in memory://.*; there are: upper, count, total"):
        found(store, steps=("cuont",))
    with pytest.raises(InvalidUse, match="There is no run 01X"):
        found(store, run_id="01X")
