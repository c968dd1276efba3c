"""Runs are found by what their records say, named by parts of their ids, and compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.config import load_settings
from batch_pipeline.records import code_state
from batch_pipeline.records.code_state import CodeState
from batch_pipeline.records.compare import ABSENT, differences
from batch_pipeline.records.record import read_record
from batch_pipeline.records.registry import Query, find_runs, moment, resolve
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.store import Store
from tests.run.small import Stage, drive, request_of

FIRST, SECOND, THIRD = "01ARZ3NDEKTSV4RRFFQ69G5FAV", "01BX5ZZKBKACTAV9WEVGEMMVRZ", "01BX5ZZKBKACTAV9WEVGEMMVS0"


def written(store: Store, run_id: str, samples: str = "ann", end: Mapping[str, Any] | None = None, **told: Any) -> None:
    """A record as a driver leaves it."""
    store.put_json(layout.run_record(run_id), {"run_id": run_id, "started_at": "", "format": 1, **told})
    store.put(layout.samples(run_id), "\n".join(("sample", *samples.split())).encode())
    if end is not None:
        store.put_json(layout.run_end(run_id), {"ended_at": "2026-01-01T00:00:00Z", "done": 1, "failed": 0, **end})


@pytest.fixture
def registry(store: Store) -> Store:
    written(
        store,
        FIRST,
        "ann bob",
        end={},
        user="ada",
        dataset="fusions",
        access_level="test",
        repository="https://example.org/lab/code.git",
        commit="abc123" + "0" * 34,
        pipeline="Fusions",
    )
    written(
        store,
        SECOND,
        "cid",
        end={"failed": 2},
        user="bob",
        identity="arn:aws:sts::1:assumed-role/bob",
        dataset="rare",
        access_level="full",
        repository="git@example.org:lab/other.git",
        commit="def456" + "0" * 34,
        pipeline="Letters",
        pipeline_name="nightly",
    )
    written(store, THIRD, "ann", user="ada", pipeline="Letters")
    return store


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, [THIRD, SECOND, FIRST]),
        ({"user": "ada"}, [THIRD, FIRST]),
        ({"user": "assumed-role/bob"}, [SECOND]),
        ({"dataset": "fusions"}, [FIRST]),
        ({"level": "full"}, [SECOND]),
        ({"repository": "lab/code"}, [FIRST]),
        ({"repository": "https://example.org/lab/code"}, [FIRST]),
        ({"repository": "lab/other.git"}, [SECOND]),
        ({"repository": "ode"}, []),
        ({"commit": "ABC1"}, [FIRST]),
        ({"status": "live"}, [THIRD]),
        ({"status": "done"}, [FIRST]),
        ({"status": "failed"}, [SECOND]),
        ({"pipeline": "nightly"}, [SECOND]),
        ({"pipeline": "Letters"}, [THIRD, SECOND]),
        ({"sample": "ann"}, [THIRD, FIRST]),
        ({"sample": "an"}, []),
        ({"since": datetime(2017, 1, 1, tzinfo=UTC)}, [THIRD, SECOND]),
        ({"until": datetime(2017, 1, 1, tzinfo=UTC)}, [FIRST]),
        ({"user": "ada", "status": "done"}, [FIRST]),
    ],
)
def test_runs_are_found_by_any_field(registry: Store, asked: dict[str, Any], found: list[str]) -> None:
    assert [run.run_id for run in find_runs(registry, Query(**asked))] == found


def test_finding_costs_one_listing_and_two_gets_a_run(registry: Store) -> None:
    registry.put("runs/01NORECORD/submissions/x/intent.json", b"{}")
    registry.calls.clear()

    assert len(find_runs(registry, Query(status="done"))) == 1

    # The live run's events are looked at; the folder without a record costs one GET.
    assert registry.calls == {"list": 2, "get": 7}


def test_times_are_told_by_ids_alone(registry: Store) -> None:
    registry.calls.clear()
    assert find_runs(registry, Query(since=datetime(2030, 1, 1, tzinfo=UTC))) == []
    assert registry.calls == {"list": 1}


def test_the_newest_come_first_and_no_more_than_asked_for(store: Store) -> None:
    ids = [f"01ARZ3NDEKTSV4RRFFQ69G{number:04d}" for number in range(40)]
    for run_id in ids:
        written(store, run_id, user="ada" if run_id < ids[20] else "bob", end={})
    assert [run.run_id for run in find_runs(store, Query(user="ada"), most=3)] == [ids[19], ids[18], ids[17]]


@pytest.mark.parametrize(
    ("text", "run_id"),
    [("last", THIRD), (FIRST, FIRST), (FIRST.lower(), FIRST), ("01AR", FIRST), ("MVRZ", SECOND), ("emmvs0", THIRD)],
)
def test_a_run_is_named_by_a_part_of_its_id(registry: Store, text: str, run_id: str) -> None:
    assert resolve(registry, text).run_id == run_id


@pytest.mark.parametrize(
    ("text", "told"), [("01BX5", "may be 2 runs"), ("nothing", "The newest is 01BX"), ("RZ", "There is no run 'RZ'")]
)
def test_a_name_that_fits_none_or_several_is_refused(registry: Store, text: str, told: str) -> None:
    with pytest.raises(InvalidUse, match=told):
        resolve(registry, text)


def test_there_is_no_last_run_of_an_empty_store(store: Store) -> None:
    with pytest.raises(InvalidUse, match="No run is recorded"):
        resolve(store, "last")


def test_times_are_days_moments_or_so_long_ago() -> None:
    day = datetime(2026, 11, 21, tzinfo=UTC)
    assert moment("2026-11-21") == day
    assert moment("2026-11-21", ends=True) == day + timedelta(days=1)
    assert moment("2026-11-21T16:30+02:00") == datetime(2026, 11, 21, 14, 30, tzinfo=UTC)
    assert abs(moment("2w") - (datetime.now(UTC) - timedelta(weeks=2))) < timedelta(minutes=1)
    for wrong in ("yesterday", "d", "-3d", "2026-13-01"):
        with pytest.raises(InvalidUse, match="is no time"):
            moment(wrong)


def test_a_failed_submission_of_a_live_run_is_told_in_the_list(store: Store, stage: Stage) -> None:
    from batch_pipeline.wire.errors import SubmissionRefused

    stage.fail_next(SubmissionRefused("The queue is closed."))
    with pytest.raises(SubmissionRefused):
        drive(request_of(store), stage)
    (run,) = find_runs(store, Query())
    assert run.problem == "submission failed: upper-0-0: The queue is closed."


# Comparing.


def test_two_runs_differ_in_code_settings_parts_and_samples(
    store: Store, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = iter([CodeState(commit="a" * 40), CodeState(commit="b" * 40)])
    monkeypatch.setattr(code_state, "read_code_state", lambda folder: next(states))
    (first,) = drive(request_of(store, "ann", "bob"), stage).run_ids
    settings = load_settings({"backend.queue": "large"}, environ={}, folder=Path("/nowhere"))
    monkeypatch.setenv(Variable.DATASET, "rare")
    request = request_of(store, "bob", "cid", params={"depth": 3}, settings=settings)
    (second,) = drive(request, stage).run_ids

    found = differences(store, read_record(store, first), read_record(store, second))

    told = {(one.about, one.field): (one.before, one.after) for one in found}
    assert told["run", "commit"] == ("a" * 40, "b" * 40)
    assert told["run", "dataset"] == ("", "rare")
    assert told["settings", "backend.queue"] == ("mixed", "large")
    assert told["step count", "params.depth"] == ("1", "3")
    assert told["samples", "ann"] == ("listed", ABSENT)
    assert told["samples", "cid"] == (ABSENT, "listed")
    assert ("samples", "bob") not in told
    assert not any(about == "step upper" for about, _ in told)


def test_a_step_that_only_one_has_is_told_once(registry: Store) -> None:
    part = {"code": "c", "params": {}, "image": "", "references": {}, "inputs": {}}
    registry.put_json(layout.plan(FIRST), {"parts": {"old": part, "both": part}})
    registry.put_json(layout.plan(THIRD), {"parts": {"both": part, "new": part}})
    before, after = read_record(registry, FIRST), read_record(registry, THIRD)
    told = [(one.about, one.before, one.after) for one in differences(registry, before, after) if "step" in one.about]
    assert told == [("step old", "there", ABSENT), ("step new", ABSENT, "there")]


def test_a_run_differs_from_itself_in_nothing(store: Store, stage: Stage) -> None:
    (run_id,) = drive(request_of(store), stage).run_ids
    record = read_record(store, run_id)
    assert differences(store, record, replace(record)) == []
