"""What memory and vCPUs steps need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.provenance.rightsize import SHARES, propose, rightsize
from batch_pipeline.records.events import FailedCell
from batch_pipeline.records.usage import MIB, CellUsage, with_room
from batch_pipeline.report.sizes import rightsize_lines, rightsize_rows
from batch_pipeline.run.verdict import write_failed
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.receipt import Receipt, Usage
from batch_pipeline.wire.store import Store


def put_receipt(store: Store, step: str, sample: str, megabytes: int, **changes: Any) -> None:
    receipt = Receipt(
        **{
            "run_id": "R",
            "step": step,
            "sample": sample,
            "fingerprint": "f",
            "attempt": 1,
            "started_at": "2026-01-01T00:00:00.000Z",
            "stopped_at": "2026-01-01T00:01:40.000Z",
            "usage": Usage(peak_memory_bytes=megabytes * MIB, cpu_seconds=150.0),
            "cpus": 4,
            "memory_mb": 4096,
            **changes,
        }
    )
    store.put_json(layout.receipt(step, sample, "f"), receipt.to_json())


def put_hungry(store: Store, run_id: str, cells: Mapping[tuple[str, str], int]) -> None:
    store.put_json(layout.run_record(run_id), {})
    failed = [
        FailedCell(
            step=step, sample=sample, reason=EndReason.OUT_OF_MEMORY, message="", run_id=run_id, memory_mb=memory_mb
        )
        for (step, sample), memory_mb in cells.items()
    ]
    write_failed(store, run_id, failed)


def test_a_proposal_holds_the_share_that_was_asked_for(store: Store) -> None:
    for number in range(1, 101):
        put_receipt(store, "align", f"s{number:03}", 10 * number)

    (found,) = rightsize(store, share=90)

    assert found.memory_mb_for == {
        50: with_room(500 * MIB, 0.2),
        90: with_room(900 * MIB, 0.2),
        95: with_room(950 * MIB, 0.2),
        99: with_room(990 * MIB, 0.2),
        100: with_room(1000 * MIB, 0.2),
    }
    assert found.memory_mb == found.memory_mb_for[90] == 1152
    assert (found.cells, found.memory_mb_now, found.fit_now) == (100, 4096, 100.0)
    assert (found.busy_median, found.cpus_now, found.cpus) == (1.5, 4, 2)
    (line,) = rightsize_lines([found])
    assert line.startswith("align: memory 1,152 MiB instead of 4,096 (72% less) and 2 vCPUs instead of 4.")
    assert rightsize_rows([found])[0][:4] == ["align", 100, 4096, "100 %"]


def test_cells_that_ran_out_of_memory_count_unless_they_were_done_since(store: Store) -> None:
    for number in range(9):
        put_receipt(store, "align", f"s{number}", 100)
    put_hungry(store, "R1", {("align", "s0"): 512, ("align", "big"): 1024})
    put_hungry(store, "R2", {("align", "big"): 2048})

    (found,) = rightsize(store)

    assert (found.cells, found.out_of_memory) == (10, 1)
    assert (found.memory_mb_for[90], found.memory_mb_for[100]) == (with_room(100 * MIB, 0.2), 4096)
    assert "1 cell ran out of memory" in rightsize_lines([found])[0]


def test_a_step_of_which_every_cell_ran_out_of_memory_is_proposed_for(store: Store) -> None:
    put_hungry(store, "R1", {("align", "s0"): 512, ("align", "s1"): 512})
    (found,) = rightsize(store, now={"align": (2, 512)})
    assert (found.memory_mb, found.cpus, found.fit_now) == (1024, 2, 0.0)


def test_what_the_pipeline_says_now_goes_before_what_receipts_had(store: Store) -> None:
    put_receipt(store, "align", "s1", 4000)
    put_receipt(store, "sort", "s1", 10, cpus=0, memory_mb=0)
    found = rightsize(store, now={"sort": (1, 128), "align": (8, 2048)})
    assert [(one.step, one.memory_mb_now, one.cpus_now, one.fit_now) for one in found] == [
        ("sort", 128, 1, 100.0),
        ("align", 2048, 8, 0.0),
    ]
    (alone,) = rightsize(store, steps=["sort"])
    assert (alone.memory_mb_now, alone.fit_now) == (0, None)
    assert rightsize_rows([alone])[0][2:4] == ["-", "-"]


def test_a_bounded_number_of_receipts_is_read_and_progress_told(store: Store) -> None:
    for number in range(40):
        put_receipt(store, "align", f"s{number:02}", number + 1)
    before = Counter(store.calls)
    told: list[tuple[int, int]] = []
    (found,) = rightsize(store, most=10, progress=lambda done, total: told.append((done, total)))
    assert (store.calls - before)["get"] == 10
    assert (found.cells, found.all_cells) == (10, 40)
    assert told == [(number, 10) for number in range(1, 11)]
    (whole,) = rightsize(store, most=None)
    assert whole.cells == 40


def test_a_store_without_receipts_has_no_proposal(store: Store) -> None:
    assert rightsize(store) == []


@given(
    peaks=st.lists(st.integers(1, 1 << 36), min_size=1, max_size=50),
    share=st.sampled_from(SHARES),
    headroom=st.floats(0, 3),
)
def test_at_least_the_share_of_the_cells_fits(peaks: list[int], share: int, headroom: float) -> None:
    taken = [CellUsage(memory_bytes=peak, cpu_seconds=1.0, seconds=1.0) for peak in peaks]
    found = propose("s", taken, len(taken), (1, 64), share=share, headroom=headroom)
    fitting = sum(peak * (1 + headroom) <= found.memory_mb * MIB for peak in peaks)
    assert fitting >= len(peaks) * share / 100
    assert list(found.memory_mb_for.values()) == sorted(found.memory_mb_for.values())


@pytest.mark.parametrize(("busy", "now", "wanted"), [(0.3, 4, 1), (1.1, 4, 1), (3.7, 4, 4), (7.9, 4, 4), (2.5, 0, 3)])
def test_vcpus_are_those_that_were_busy(busy: float, now: int, wanted: int) -> None:
    taken = [CellUsage(memory_bytes=MIB, cpu_seconds=busy * 10, seconds=10.0)]
    assert propose("s", taken, 1, (now, 128)).cpus == wanted
