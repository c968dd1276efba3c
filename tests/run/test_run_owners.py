"""Two pipelines that call a step alike in one store: refused before anything is written, unless it is meant."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batch_pipeline.pipeline.plan import Selection
from batch_pipeline.records.request import Request
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidPipeline
from batch_pipeline.wire.store import Store
from tests.run.small import Stage, drive, request_of

STEPS = ("upper", "count", "total")


def other(store: Store, **changes: object) -> Request:
    """The same steps with one parameter changed, of a pipeline in another file."""
    request = request_of(store, **changes)
    return replace(request, graph=replace(request.graph, module="copied"))


def markers(store: Store) -> list[str]:
    return sorted(store.keys(layout.OWNERS))


def test_a_pipeline_marks_its_steps_once(store: Store, stage: Stage) -> None:
    request = request_of(store)
    drive(request, stage)
    expected = [layout.owner(step, request.graph.identity) for step in sorted(STEPS)]
    assert markers(store) == expected
    assert request.graph.identity == "small.Letters"
    drive(replace(request, selection=Selection(force=True)), stage)
    assert markers(store) == expected


def test_another_is_refused_and_both_are_named(store: Store, stage: Stage) -> None:
    drive(request_of(store), stage)
    before = sorted(key for key in store.keys("") if not key.startswith(layout.DRIVER))
    with pytest.raises(InvalidPipeline) as caught:
        drive(other(store, selection=Selection(force=True)), stage)
    message = str(caught.value)
    assert message.startswith("copied.Letters has the steps 'upper', 'count', 'total', and so has small.Letters")
    assert "--share-steps" in message
    assert sorted(key for key in store.keys("") if not key.startswith(layout.DRIVER)) == before


def test_one_that_has_nothing_to_do_shares_freely_and_asks_nothing(store: Store, stage: Stage) -> None:
    drive(request_of(store), stage)
    store.calls.clear()
    assert drive(other(store), stage).ok
    lists = store.calls["list"]
    store.calls.clear()
    assert drive(request_of(store), stage).ok
    assert store.calls["list"] == lists


def test_only_steps_that_are_sent_are_looked_at(store: Store, stage: Stage) -> None:
    request = request_of(store, "ann")
    drive(request, stage)
    only = Selection(steps=frozenset({"total"}))
    store.delete([layout.owner("total", "small.Letters")])
    assert drive(replace(other(store, selection=replace(only, force=True)), samples=request.samples), stage).ok
    assert layout.owner("total", "copied.Letters") in markers(store)
    assert layout.owner("upper", "copied.Letters") not in markers(store)


def test_it_is_said_once_that_it_is_meant(store: Store, stage: Stage) -> None:
    drive(request_of(store), stage)
    forced = Selection(force=True)
    assert drive(other(store, selection=forced, share_steps=True), stage).ok
    assert len(markers(store)) == 2 * len(STEPS)
    assert drive(other(store, selection=forced), stage).ok
    assert drive(request_of(store, selection=forced), stage).ok


def test_only_markers_count(store: Store, stage: Stage) -> None:
    store.put(f"{layout.OWNERS}upper/.nfs0001", b"")
    store.put(f"{layout.OWNERS}upper/deep/x.json", b"")
    assert drive(request_of(store), stage).ok


def test_a_store_of_an_earlier_version_belongs_to_the_next_who_sends(store: Store, stage: Stage) -> None:
    drive(request_of(store), stage)
    store.delete(markers(store))
    assert drive(request_of(store, "ann", "bob", "cid", "dan"), stage).ok
    with pytest.raises(InvalidPipeline):
        drive(other(store, selection=Selection(force=True)), stage)
