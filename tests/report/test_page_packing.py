"""Packed columns of a page hold what the cell table has, to a tenth of a per cent, whatever its numbers."""

from __future__ import annotations

import gzip
from array import array
from base64 import b64decode

import pytest

from batch_pipeline.records.cell_table import REASONS, STATES, CellColumns, CellEnd
from batch_pipeline.report.page.packing import PACKED, TimeScale, code_of, number_of, packed_names, packed_step
from batch_pipeline.report.page.source import ShownCells
from batch_pipeline.report.page.states import SEVERITY, ShownState, shown_states
from batch_pipeline.wire.contract import EndReason

SAMPLES = ("ann", "bob", "cid")


def cells(**columns: list[int]) -> ShownCells:
    made = CellColumns.blank("call", SAMPLES)
    for name, numbers in columns.items():
        made.columns[name][:] = array(made.columns[name].typecode, numbers)
    return ShownCells(cells=made, states=shown_states(made))


def unpacked(block: str) -> dict[str, list[int]]:
    """As the page's script does."""
    data = gzip.decompress(b64decode(block))
    columns, start = {}, 0
    for name, kind in PACKED.items():
        width = array(kind).itemsize
        planes = [data[start + plane * len(SAMPLES) : start + (plane + 1) * len(SAMPLES)] for plane in range(width)]
        columns[name] = [sum(byte << 8 * at for at, byte in enumerate(digits)) for digits in zip(*planes, strict=True)]
        start += width * len(SAMPLES)
    assert start == len(data)
    return columns


@pytest.mark.parametrize("number", [0, 1, 1023, 1024, 1025, 2047, 2048, 86_400_000, 123_456_789_012, 1 << 60])
def test_a_code_is_right_to_a_tenth_of_a_per_cent(number: int) -> None:
    assert code_of(number) < 1 << 16
    assert 0 <= number - number_of(code_of(number)) <= number / 512


def test_codes_are_in_the_order_of_their_numbers() -> None:
    numbers = [round(1.07**power) for power in range(500)]
    codes = list(map(code_of, numbers))
    assert codes == sorted(codes)


def test_columns_are_packed_and_starts_count_from_the_first() -> None:
    step = cells(
        state=[STATES.index(CellEnd.DONE)] * 3,
        machine=[0, 300, 2],
        started_ms=[1_000_000_000_500, 0, 1_000_000_070_500],
        duration_ms=[70_000, 0, 1_000_000],
        peak_memory_bytes=[3 << 30, 0, 5 << 20],
        memory_mb=[4096, 4096, 70_000],
        attempts=[1, 0, 2],
    )
    scale = TimeScale.of([step.cells])
    assert (scale.begin_ms, scale.end_ms, scale.tick_ms) == (1_000_000_000_500, 1_000_001_070_500, 1000)
    columns = unpacked(packed_step(step, scale))
    assert columns["start"] == [1, 0, 71]
    assert columns["machine"] == [0, 300, 2]
    assert columns["attempts"] == [1, 0, 2]
    assert [number_of(code) for code in columns["memory"]] == [3072, 0, 5]
    assert [number_of(code) for code in columns["duration"]] == [69_888, 0, 999_424]


def test_a_run_without_times_has_a_scale_of_nothing() -> None:
    assert TimeScale.of([cells().cells]) == TimeScale(begin_ms=0, end_ms=0, tick_ms=1)
    assert TimeScale.of([]) == TimeScale(begin_ms=0, end_ms=0, tick_ms=1)


def test_short_runs_are_kept_to_the_millisecond() -> None:
    step = cells(started_ms=[5_000, 5_007, 0], duration_ms=[20, 30, 0])
    scale = TimeScale.of([step.cells])
    assert scale.tick_ms == 1
    assert unpacked(packed_step(step, scale))["start"] == [1, 8, 0]


def test_failures_outrank_what_never_ran_for_them_and_all_else() -> None:
    failed = STATES.index(CellEnd.FAILED)
    reasons = [EndReason.TIMEOUT, EndReason.DEPENDENCY, EndReason.CANCELLED]
    step = cells(state=[failed] * 3, reason=[REASONS.index(reason.value) for reason in reasons])
    shown = [ShownState.FAILED, ShownState.NOT_RUN, ShownState.CANCELLED]
    assert list(step.states) == [SEVERITY[state] for state in shown]
    assert max(SEVERITY, key=SEVERITY.__getitem__) is ShownState.FAILED
    assert SEVERITY[ShownState.NOT_RUN] > max(SEVERITY[state] for state in (ShownState.DONE, ShownState.UNKNOWN))


def test_every_end_of_a_cell_is_shown_as_a_state_of_its_own() -> None:
    for end in CellEnd:
        assert len(set(cells(state=[STATES.index(end)] * 3).states)) == 1
    assert len({bytes(cells(state=[STATES.index(end)] * 3).states) for end in CellEnd}) == len(CellEnd)


def test_names_are_lines() -> None:
    assert gzip.decompress(b64decode(packed_names(SAMPLES))).decode() == "ann\nbob\ncid"
    assert gzip.decompress(b64decode(packed_names(()))) == b""
