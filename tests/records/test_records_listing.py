"""Listing chosen cells: every entry once, in as few calls as the places asked and the objects there allow."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.records.listing import (
    PAGES_AT_ONCE,
    CellFolders,
    FileKeys,
    Places,
    by_place,
    entries_below,
    entries_of,
)
from batch_pipeline.records.whole_store import receipt_entries
from batch_pipeline.wire import layout
from batch_pipeline.wire.store import FEW_NAMES, Store, open_store
from tests.run.paged import PagedStore, large_store

#: Sorted otherwise with a slash behind than without.
NAMES = ["s", "s-1", "s.2", "s+3", "s10", "s1", "t", "_cohort"]


def keys_of(store: Store, places: Places, *, etags: bool = True) -> list[str]:
    groups = [[entry.key for entry in group] for group in by_place(places, entries_of(store, places, etags=etags))]
    owners = [{places.place_of(key) for key in keys} for keys in groups]
    assert all(len(owner) == 1 for owner in owners), "a group is of one place"
    assert len(owners) == len({place for owner in owners for place in owner}), "a place comes whole"
    return sorted(key for keys in groups for key in keys)


def written(folder: Path, cells: int) -> None:
    for number in range(cells):
        cell = folder / f"receipts/a/s{number}"
        cell.mkdir(parents=True)
        (cell / "f.json").touch()


@pytest.mark.parametrize("count", [1, 20])
@pytest.mark.parametrize("seed", range(4))
def test_each_wanted_entry_comes_once_however_pages_are_cut(seed: int, count: int) -> None:
    chance = random.Random(seed)
    names = [*NAMES, *(f"{name}{number}" for name in NAMES for number in range(60))]
    keys = {
        f"receipts/{step}/{name}/{number}.json"
        for step in ("a", "a-b", "b", "c")
        for name in names
        for number in range(chance.choice((0, 1, 1, 3, count)))
    }
    # One that has more objects than a page.
    keys |= {f"receipts/a-b/s1/{number}.json" for number in range(2500)}
    keys |= {"receipts/README", "receipts/a/loose.json", "receipts/zz/s/1.json"}
    store = PagedStore(keys)
    wanted = {f"receipts/{step}/": chance.sample(names, chance.randint(1, len(names))) for step in ("a", "a-b", "c")}
    places = CellFolders(wanted)
    folders = {f"{prefix}{name}" for prefix, some in wanted.items() for name in some}
    expected = sorted(key for key in keys if key.rpartition("/")[0] in folders)

    assert keys_of(store, places) == expected
    # Each page but the last of a range is full of keys that no other page has.
    assert store.calls["list"] <= -(-len(keys) // 1000) + 2 * PAGES_AT_ONCE
    assert store.most_in_flight <= PAGES_AT_ONCE


def test_a_small_store_costs_one_call_however_many_cells_are_asked() -> None:
    store = large_store(10)
    names = [f"s{number:07}" for number in range(100)]
    assert len(keys_of(store, CellFolders({"receipts/count/": names, "receipts/upper/": names}))) == 20
    assert store.calls["list"] == 1


@pytest.mark.parametrize("samples", [10, 1_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_few_cells_of_many_cost_a_call_each(samples: int) -> None:
    store = large_store(samples)
    names = [f"s{number * samples // 3:07}" for number in range(3)]
    assert len(keys_of(store, CellFolders({"receipts/count/": names, "receipts/upper/": names}))) == 6
    assert len(keys_of(store, FileKeys(f"SR/{name}.txt" for name in names))) == 3
    assert store.calls["list"] <= (2 if samples == 10 else 9)


@pytest.mark.parametrize("samples", [1_000, 10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_all_cells_cost_a_call_a_thousand_objects_and_one_a_range(samples: int) -> None:
    store = large_store(samples)
    names = [f"s{number:07}" for number in range(samples)]
    places = CellFolders({"receipts/count/": names, "receipts/upper/": names})
    count = sum(len(group) for group in by_place(places, entries_of(store, places)))
    assert count == 2 * samples
    assert store.calls["list"] <= -(-2 * samples // 1000) + 2 * PAGES_AT_ONCE
    assert store.most_in_flight <= PAGES_AT_ONCE
    assert len(set(store.pages)) == len(store.pages), "no page is listed twice"


def test_a_cohort_that_is_new_to_a_large_store_costs_no_call_a_sample() -> None:
    store = large_store(3_000)
    names = [f"t{number:07}" for number in range(100_000)]
    assert not keys_of(store, CellFolders({"receipts/count/": names, "receipts/upper/": names}))
    assert store.calls["list"] <= 3 + 2 * PAGES_AT_ONCE


def test_ranges_of_many_cells_begin_at_once() -> None:
    store = large_store(5_000)
    names = [f"s{number:07}" for number in range(5_000)]
    store.hold(12)
    assert len(keys_of(store, CellFolders({"receipts/count/": names, "receipts/upper/": names}))) == 10_000
    # Each ends with its first page: all take as long as one call.
    assert store.calls["list"] == store.most_in_flight == 12


@pytest.mark.parametrize("likely", ["there", "elsewhere", "few", "none"])
@pytest.mark.parametrize("seed", range(3))
def test_all_below_a_prefix_comes_once_wherever_it_is_divided(seed: int, likely: str) -> None:
    chance = random.Random(seed)
    names = [f"{name}{number}" for name in NAMES for number in range(200)]
    keys = {
        f"receipts/{step}/{name}/{number}.json"
        for step in ("a", "a-b", "b", "é")
        for name in names
        for number in range(chance.choice((0, 1, 2)))
    }
    keys |= {f"receipts/a-b/s1/{number}.json" for number in range(2500)}
    outside = {"receipts.txt", "receipts-1/x", "receipts0", "logs/x"}
    keys |= {"receipts/README", "receipts/a/loose.json"}
    samples = {
        "there": names,
        "elsewhere": [f"w{number}" for number in range(3000)],
        "few": ["s5", "t7"],
        "none": ["_cohort"],
    }
    store = PagedStore(keys | outside)
    places = CellFolders(dict.fromkeys(("receipts/a/", "receipts/a-b/", "receipts/c/"), samples[likely]))
    listed = [entry.key for group in entries_below(store, "receipts/", lambda: places) for entry in group]
    assert sorted(listed) == sorted(keys)
    assert store.calls["list"] <= -(-len(keys) // 1000) + 2 * PAGES_AT_ONCE
    assert store.most_in_flight <= PAGES_AT_ONCE


def test_a_small_store_is_listed_whole_in_one_call() -> None:
    store = large_store(100)
    assert sum(1 for group in receipt_entries(store) for _ in group) == 200
    assert store.calls == {"list": 1}


def test_all_receipts_are_listed_in_parallel_by_the_longest_recorded_sample_list() -> None:
    store = large_store(20_000)
    _recorded(store, "20200101T000000000-OLD", [f"s{number:07}" for number in range(20_000)])
    _recorded(store, "20200102T000000000-NEW", ["s0000001"])
    # No run made these.
    store.put(layout.receipt("count", "loose", "0" * 16), b"x")
    store.calls.clear()
    store.pages.clear()
    store.hold(PAGES_AT_ONCE)
    listed = [entry.key for group in receipt_entries(store) for entry in group]
    assert len(set(listed)) == len(listed) == 40_001
    assert store.calls["list"] <= 41 + 2 + PAGES_AT_ONCE
    assert store.most_in_flight == PAGES_AT_ONCE


def _recorded(store: Store, run_id: str, names: list[str]) -> None:
    """The record of a run as far as its sample list is looked for."""
    record = {"run_id": run_id, "started_at": "", "format": 1, "samples": len(names)}
    store.put_json(layout.run_record(run_id), record)
    store.put_json(layout.run_end(run_id), {"ended_at": "2020-01-03T00:00:00Z", "done": 1, "failed": 0})
    store.put(layout.samples(run_id), "\n".join(["sample", *names]).encode())


@pytest.mark.parametrize("etags", [True, False])
@pytest.mark.parametrize("many", [FEW_NAMES // 2, 2 * FEW_NAMES])
def test_a_folder_has_the_same_entries_as_pages(tmp_path: Path, many: int, etags: bool) -> None:
    store = open_store(str(tmp_path))
    written(tmp_path, 3 * FEW_NAMES)
    (tmp_path / "receipts/a/loose").touch()
    names = [f"s{number}" for number in range(0, 6 * many, 3)]
    there = sorted(f"receipts/a/{name}/f.json" for name in names if int(name[1:]) < 3 * FEW_NAMES)
    assert keys_of(store, CellFolders({"receipts/a/": names, "receipts/none/": names}), etags=etags) == there
    files = [f"receipts/a/{name}/f.json" for name in names]
    assert keys_of(store, FileKeys([*files, "receipts/a/absent"])) == there


def test_a_folder_of_other_samples_is_not_walked_for_a_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(str(tmp_path))
    written(tmp_path, 100)
    scanned: list[str] = []
    scandir = os.scandir

    def scan(path: str) -> Any:
        scanned.append(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    keys_of(store, CellFolders({"receipts/a/": ["s7", "s8", "absent"]}), etags=False)
    assert [path.rpartition("/")[2] for path in sorted(scanned)] == ["absent", "s7", "s8"]
    scanned.clear()
    keys_of(store, CellFolders({"receipts/a/": [f"s{number}" for number in range(2 * FEW_NAMES)]}), etags=False)
    assert len(scanned) == 1 + 2 * FEW_NAMES
