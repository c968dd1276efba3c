"""The cell table of a run is what was put into it, in few bytes, and is never half read."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.records import cell_table
from batch_pipeline.records.cell_table import (
    BITS,
    COLUMNS,
    FORMAT,
    REASONS,
    STATES,
    CellColumns,
    CellEnd,
    CellTable,
    CellTableWriter,
    UnreadableCellTable,
    milliseconds,
    rounded,
    table_of,
)
from batch_pipeline.records.record import RunRecord
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.store import Store, open_store

RUN = "01JD0000000000000000000000"
SIZES = st.integers(min_value=0, max_value=1 << 50)
ROUNDED = [name for name in COLUMNS if name.endswith(("_bytes", "_ms")) and name != "started_ms"]


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Store:
    return open_store(f"memory://{request.node.name}")


@st.composite
def steps(draw: st.DrawFn, samples: tuple[str, ...]) -> list[CellColumns]:
    """Steps with any numbers in their columns."""
    drawn = []
    for number in range(draw(st.integers(min_value=0, max_value=3))):
        cells = CellColumns.blank(f"step{number}", draw(st.sampled_from([samples, (layout.COHORT,)])))
        for position in range(len(cells.samples)):
            attempts = draw(st.integers(min_value=0, max_value=255))
            values = {
                "state": draw(st.integers(min_value=0, max_value=len(STATES) - 1)),
                "reason": draw(st.integers(min_value=0, max_value=len(REASONS) - 1)),
                "attempts": attempts,
                "machine": draw(st.integers(min_value=0, max_value=2)),
                "started_ms": draw(st.integers(min_value=1, max_value=1 << 42)) if attempts else 0,
                "cpus": draw(st.integers(min_value=0, max_value=200)),
                **{name: draw(SIZES) for name in ROUNDED},
                "unrecorded": draw(st.integers(min_value=0, max_value=255)),
                "memory_mb": draw(SIZES),
            }
            for name, value in values.items():
                cells.columns[name][position] = value
        drawn.append(cells)
    return drawn


@given(data=st.data(), names=st.lists(st.text("abc.9", min_size=1, max_size=4), unique=True, max_size=5))
def test_what_is_read_is_what_was_written(data: st.DataObject, names: list[str]) -> None:
    samples = tuple(names)
    written = data.draw(steps(samples))
    writer = CellTableWriter(RUN, samples, done=3, failed=1, measured=True)
    assert [writer.machine(name) for name in ("m5.large", "a", "m5.large", "")] == [1, 2, 1, 0]
    for cells in written:
        writer.add(cells)
    store = open_store("memory://round-trip")
    table = writer.write(store)
    assert table == CellTable.read(store, RUN)
    assert (table.run_id, table.done, table.failed, table.machines) == (RUN, 3, 1, ("", "m5.large", "a"))
    for cells, read in zip(written, table.steps.values(), strict=True):
        assert tuple(read.samples) == cells.samples
        for name, column in cells.columns.items():
            exact = name not in ROUNDED
            assert list(read.columns[name]) == (list(column) if exact else [rounded(number) for number in column])


@given(number=SIZES)
def test_sizes_are_right_to_a_tenth_of_a_percent(number: int) -> None:
    assert abs(rounded(number) - number) * 2**BITS <= number
    assert rounded(number) == number or number >= 2**BITS
    assert rounded(rounded(number)) == rounded(number)


def written(store: Store, samples: int = 3) -> CellTable:
    names = tuple(f"S{number}" for number in range(samples))
    writer = CellTableWriter(RUN, names, done=samples - 1, failed=1, measured=True)
    cells = CellColumns.blank("call", names)
    for position in range(samples):
        cells.columns["state"][position] = STATES.index(CellEnd.DONE)
        cells.columns["attempts"][position] = 1
        cells.columns["machine"][position] = writer.machine("m5.large, spot, eu-west-1a")
        cells.columns["started_ms"][position] = milliseconds("2026-11-30T12:00:00.500Z") + position
        cells.columns["duration_ms"][position] = 1500
    cells.columns["state"][0] = STATES.index(CellEnd.FAILED)
    cells.columns["reason"][0] = REASONS.index("out_of_memory")
    writer.add(cells)
    return writer.write(store)


def test_rows_have_words_and_times(store: Store) -> None:
    first, second, _ = written(store).rows()
    assert (first.step, first.sample, first.state, first.reason) == (
        "call",
        "S0",
        CellEnd.FAILED,
        EndReason.OUT_OF_MEMORY,
    )
    assert (second.state, second.reason, second.machine) == (CellEnd.DONE, None, "m5.large, spot, eu-west-1a")
    assert (second.started_at, second.stopped_at) == ("2026-11-30T12:00:00.501Z", "2026-11-30T12:00:02.001Z")


def test_any_byte_that_changed_and_any_cut_is_noticed(store: Store) -> None:
    written(store)
    key = layout.run_cells(RUN)
    whole = store.get(key)
    for cut in range(len(whole)):
        store.put(key, whole[:cut])
        with pytest.raises(UnreadableCellTable):
            CellTable.read(store, RUN)
    for position in range(len(whole)):
        store.put(key, whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        # Bytes of gzip's headers that mean nothing may be anything; what is read is then what was written.
        table, sentence = table_of(store, ended())
        assert f"`store index {RUN}` writes it again" in sentence if table is None else table == _read(whole)


def _read(data: bytes) -> CellTable:
    store = open_store("memory://whole")
    store.put(layout.run_cells(RUN), data)
    return CellTable.read(store, RUN)


def ended(**changes: object) -> RunRecord:
    return replace(
        RunRecord(run_id=RUN, started_at="2026-11-30T12:00:00Z", ended_at="2026-11-30T13:00:00Z", done=2, failed=1),
        **changes,  # type: ignore[arg-type]
    )


def test_a_table_is_read_for_the_end_that_it_was_written_with(store: Store) -> None:
    assert table_of(store, ended()) == (None, "")
    table = written(store)
    assert table_of(store, ended()) == (table, "")
    assert table_of(store, ended(ended_at="")) == (None, "")
    none, sentence = table_of(store, ended(done=3, failed=0))
    assert none is None
    assert "out of date" in sentence
    assert f"store index {RUN}" in sentence


def test_another_version_is_refused_in_a_sentence(store: Store) -> None:
    written(store)
    key = layout.run_cells(RUN)
    header = json.loads(_first_member(store.get(key))[0])
    assert header["format"] == FORMAT
    store.put(key, gzip.compress(json.dumps({**header, "format": FORMAT + 2}).encode()))
    table, sentence = table_of(store, ended())
    assert table is None
    assert "its format is 4, and this version reads up to 3" in sentence


def test_a_table_of_format_1_is_read_with_zeros_for_what_it_has_not(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = list(COLUMNS.items())[:11]
    assert known[-1][0] == "memory_mb"
    with monkeypatch.context() as earlier:
        earlier.setattr(cell_table, "FORMAT", 1)
        earlier.setattr(cell_table, "COLUMNS", dict(known))
        table = written(store)
    read = CellTable.read(store, RUN)
    for name, column in read.steps["call"].columns.items():
        assert list(column) == list(table.steps["call"].columns.get(name, [0, 0, 0]))
    assert list(read.rows())[1].queued_ms == 0


def test_cells_of_parts_and_groups_have_names_of_their_own(store: Store) -> None:
    writer = CellTableWriter(RUN, ("ann", "bob"), done=0, failed=0, measured=False)
    names_by_step = {"align": ("ann", "bob"), "call": ("ann@chr1", "ann@chr2", "bob@chr1"), "pair": ("p1",)}
    for step, names in names_by_step.items():
        writer.add(CellColumns.blank(step, names))
    table = writer.write(store)
    assert {step: tuple(cells.samples) for step, cells in table.steps.items()} == names_by_step
    assert json.loads(_first_member(store.get(layout.run_cells(RUN)))[0])["format"] == 3


def test_words_of_states_and_reasons_are_the_files_own(store: Store) -> None:
    """A later version may have its states in another order."""
    table = written(store)
    key = layout.run_cells(RUN)
    members = store.get(key)
    text, others = _first_member(members)
    header = json.loads(text)
    words = header["states"]
    swapped = {"done": "failed", "failed": "done"}
    header["states"] = [swapped.get(word, word) for word in words]
    store.put(key, gzip.compress(json.dumps(header).encode()) + others)
    other = CellTable.read(store, RUN)
    assert other.steps["call"].counts() == {CellEnd.DONE: 1, CellEnd.FAILED: 2}
    assert table.steps["call"].counts() == {CellEnd.DONE: 2, CellEnd.FAILED: 1}


def _first_member(data: bytes) -> tuple[bytes, bytes]:
    """The header, and the other members as they are."""
    unpacker = zlib.decompressobj(wbits=31)
    return unpacker.decompress(data), unpacker.unused_data


def test_a_cell_takes_at_most_thirteen_bytes(store: Store) -> None:
    """Even where sizes and times are spread as widely as those of a real cohort, in steps of random order."""
    chance = random.Random(1)
    names = tuple(f"patient{number:05d}" for number in range(3000))
    writer = CellTableWriter(RUN, names, done=0, failed=0, measured=True)
    for step in range(3):
        cells = CellColumns.blank(f"step{step}", names)
        for position in range(len(names)):
            values = {
                "state": 1,
                "attempts": 1,
                "machine": writer.machine(f"m5.large, spot, eu-west-1{chance.choice('abc')}"),
                "started_ms": 1_790_000_000_000 + 40 * position + chance.randrange(20_000),
                "duration_ms": int(chance.lognormvariate(14.5, 0.5)),
                "peak_memory_bytes": int(chance.lognormvariate(22, 0.3)),
                "in_bytes": int(chance.lognormvariate(21, 0.5)),
                "out_bytes": int(chance.lognormvariate(20.5, 0.5)),
                "cpus": 2,
                "memory_mb": 8000,
                "queued_ms": int(chance.lognormvariate(13, 1)),
                "cpu_ms": int(chance.lognormvariate(15, 0.5)),
            }
            for name, value in values.items():
                cells.columns[name][position] = value
        writer.add(cells)
    assert len(writer.to_bytes()) <= 13 * 3 * len(names)


def test_a_thousand_machines_are_named_and_no_more() -> None:
    writer = CellTableWriter(RUN, (), done=0, failed=0, measured=True)
    numbers = [writer.machine(f"host{number}") for number in range(1500)]
    assert max(numbers) == 999
    assert numbers[1400] == 0
    assert writer.machine("host3") == 4
