"""Reading header and row: spread where an array is large, once a host of ECS, compared with its digest."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batch_pipeline.container import header, host_cache
from batch_pipeline.container.environment import CellLocation, read_location
from batch_pipeline.container.files import Files, files_of
from batch_pipeline.container.header import read_cell, spread_seconds
from batch_pipeline.container.process_cache import ProcessCache
from batch_pipeline.wire.errors import ContractBroken
from batch_pipeline.wire.manifest import Row
from batch_pipeline.wire.s3 import jittered, random_share

if TYPE_CHECKING:
    from tests.container.conftest import Workshop

MACHINE = {"AWS_EXECUTION_ENV": "AWS_ECS_EC2"}
FARGATE = {"AWS_EXECUTION_ENV": "AWS_ECS_FARGATE"}


def child(workshop: Workshop, size: int, variables: Mapping[str, str], *, index: int = 0) -> CellLocation:
    """Where child `index` of an array is, whose manifest is in the store with one row for each child."""
    environment = workshop.submit([Row(sample=f"s{i}", fingerprint="f" * 16) for i in range(size)])
    rows = environment["BATCH_PIPELINE_MANIFEST"].replace("manifest.json", "rows.txt")
    return read_location(
        {
            **environment,
            "BATCH_PIPELINE_MANIFEST_SHA256": digest(workshop, environment["BATCH_PIPELINE_MANIFEST"]),
            "BATCH_PIPELINE_ROWS_SHA256": digest(workshop, rows),
            "AWS_BATCH_JOB_ARRAY_INDEX": str(index),
            "AWS_BATCH_JOB_ARRAY_SIZE": str(size),
            **variables,
        }
    )


def digest(workshop: Workshop, key: str) -> str:
    return hashlib.sha256(workshop.store.get(key)).hexdigest()


def read(location: CellLocation, workshop: Workshop, *, share: float = 0.5) -> tuple[str, list[float]]:
    """The sample that a new process reads, and the seconds that it waits."""
    pauses: list[float] = []
    cache = ProcessCache({}, {})
    _, row = read_cell(location, files_of(workshop.store), cache, sleep=pauses.append, share=lambda: share)
    return row.sample, pauses


@pytest.mark.parametrize(
    ("size", "variables", "seconds"),
    [
        (1000, MACHINE, 0.0),
        (1001, MACHINE, 1.001),
        (10_000, MACHINE, 10.0),
        (10_000, FARGATE, 10.0),
        (100_000, MACHINE, 20.0),
        (10_000, {}, 0.0),
    ],
)
def test_first_reads_are_spread_over_seconds_that_the_size_says(
    memory_workshop: Workshop, size: int, variables: Mapping[str, str], seconds: float
) -> None:
    location = replace(child(memory_workshop, 2, variables), array_size=size)
    assert spread_seconds(location, files_of(memory_workshop.store)) == seconds
    assert read(location, memory_workshop, share=0.25) == ("s0", [round(seconds / 4, 3)] if seconds else [])


def test_a_folder_is_read_at_once(folder_workshop: Workshop) -> None:
    location = replace(child(folder_workshop, 2, MACHINE), array_size=10_000)
    assert read(location, folder_workshop) == ("s0", [])
    assert not folder_workshop.scratch.exists()


def test_where_batch_does_not_say_the_size_the_index_does(memory_workshop: Workshop) -> None:
    environment = memory_workshop.submit([Row(sample="s", fingerprint="f")])
    assert read_location({**environment, "AWS_BATCH_JOB_ARRAY_INDEX": "4999"}).array_size == 5000
    assert read_location(environment).array_size == 1


def test_jitter_is_random_within_its_bounds() -> None:
    shares = [random_share() for _ in range(1000)]
    assert 0 <= min(shares) < 0.1
    assert 0.9 < max(shares) < 1
    assert len(set(shares)) == 1000
    assert all(5 <= jittered(10) < 15 for _ in range(1000))


def test_of_many_on_one_machine_one_waits_and_reads(memory_workshop: Workshop) -> None:
    location = replace(child(memory_workshop, 8, MACHINE), array_size=8000)
    calls = memory_workshop.store.calls
    before = calls["get"]
    children = [replace(location, index=index) for index in range(8)]
    with ThreadPoolExecutor(8) as pool:
        cells = list(pool.map(lambda one: read(one, memory_workshop), children))
    assert [sample for sample, _ in cells] == [f"s{index}" for index in range(8)]
    assert sorted(pauses for _, pauses in cells) == [[]] * 7 + [[4.0]]
    # The header and the rows.
    assert calls["get"] == before + 2


def test_on_fargate_each_reads_its_own_row(memory_workshop: Workshop) -> None:
    location = child(memory_workshop, 3, FARGATE, index=2)
    calls = memory_workshop.store.calls
    before = calls["get"]
    assert read(location, memory_workshop) == ("s2", [])
    assert calls["get"] == before + 2
    assert not memory_workshop.scratch.exists()


def test_many_rows_are_read_one_by_one(memory_workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "MOST_SHARED_BYTES", 10)
    assert read(child(memory_workshop, 3, MACHINE, index=2), memory_workshop) == ("s2", [])
    assert [path.name for path in objects(memory_workshop)] == ["manifest.json"]


def objects(workshop: Workshop) -> list[Path]:
    return sorted(path for path in workshop.cached.glob("objects/*/*") if path.name != ".lock")


@pytest.mark.parametrize("name", ["manifest.json", "rows.txt"])
def test_what_is_cached_is_compared_at_each_use(memory_workshop: Workshop, name: str) -> None:
    location = child(memory_workshop, 2, MACHINE)
    assert read(location, memory_workshop)[0] == "s0"
    (cached,) = (path for path in objects(memory_workshop) if path.name == name)
    whole = cached.read_bytes()
    cached.write_bytes(whole.replace(b"s0", b"s9").replace(b"copy", b"evil"))
    assert read(location, memory_workshop)[0] == "s0"
    assert cached.read_bytes() == whole


def test_a_cache_that_is_no_folder_is_done_without(memory_workshop: Workshop) -> None:
    location = child(memory_workshop, 2, MACHINE)
    memory_workshop.cached.mkdir(parents=True)
    memory_workshop.cached.joinpath("objects").write_text("a file in the way")
    assert read(location, memory_workshop)[0] == "s0"


def test_a_full_disk_below_the_cache_stops_no_first_read(
    memory_workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = child(memory_workshop, 2, MACHINE)

    def full(path: str, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", path)

    monkeypatch.setattr(host_cache, "put", full)
    before = memory_workshop.store.calls["get"]
    assert read(location, memory_workshop)[0] == "s0"
    assert objects(memory_workshop) == []
    # What was fetched, and could not be kept, is not fetched again.
    assert memory_workshop.store.calls["get"] - before <= 2


@pytest.mark.parametrize("variables", [MACHINE, FARGATE, {}])
def test_a_manifest_that_was_replaced_is_refused(memory_workshop: Workshop, variables: Mapping[str, str]) -> None:
    location = child(memory_workshop, 2, variables)
    memory_workshop.store.put(location.manifest_key, b"{}")
    with pytest.raises(ContractBroken, match="promised SHA-256"):
        read(location, memory_workshop)
    memory_workshop.store.delete([location.manifest_key])
    with pytest.raises(ContractBroken, match=r"is gone; the job cannot know what to do\. Submit again\."):
        read(location, memory_workshop)


def test_a_driver_of_before_gives_no_digests(memory_workshop: Workshop) -> None:
    location = replace(child(memory_workshop, 2, MACHINE), manifest_sha256="", rows_sha256="")
    files: Files = files_of(memory_workshop.store)
    assert read_cell(location, files, ProcessCache({}, {}))[1].sample == "s0"
    assert not memory_workshop.scratch.exists()
