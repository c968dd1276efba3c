"""Results that are not what their receipts say: whoever was to read them retires the receipt, and no other."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.container.files import FolderFiles, ObjectFiles
from batch_pipeline.records.receipts import all_standing_receipts, read_retirements
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import StoreFailed
from batch_pipeline.wire.manifest import InputSpec, OutputSpec, Row
from batch_pipeline.wire.store import Store
from tests.container.conftest import Workshop

KEY = "results/prep/s1/a"
SENTENCE = "prep of s1 is not done any more; the next command that includes it makes it again."


def reader(workshop: Workshop, fingerprint: str) -> dict[str, str]:
    """A cell that reads the one result of `prep`."""
    return workshop.submit(
        [Row(sample="s1", fingerprint="f" * 16, upstream={"prep": fingerprint})],
        script="step.sh",
        bundle_sha256=workshop.bundle({"step.sh": '#!/bin/sh\ncp "$INPUT_X" y\n'}),
        inputs=(InputSpec(port="x", kind="step", step="prep", files=("a",)),),
        outputs=(OutputSpec(port="y", files=("y",)),),
    )


def done(workshop: Workshop) -> set[tuple[str, str]]:
    """Cells whose receipt counts, as the next plan sees it."""
    counting = all_standing_receipts(workshop.store, read_retirements(workshop.store)).counting
    return {(step, sample) for step, samples in counting.items() for sample in samples}


def replace_later(store: Store) -> None:
    """Puts other bytes of the same size, and not within one tick of the file system's clock."""
    store.put(KEY, b"B")
    url = store.url_of(KEY)
    if url.startswith("file://"):
        moment = Path(url.removeprefix("file://")).stat().st_mtime_ns + 1_000_000_000
        os.utime(url.removeprefix("file://"), ns=(moment, moment))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda store: store.delete([KEY]), "it is not there"),
        (lambda store: store.put(KEY, b"longer"), "it has 6 bytes instead of 1"),
        (replace_later, "it has other bytes"),
    ],
    ids=["removed", "another size", "the same size"],
)
def test_a_receipt_whose_result_was_touched_is_retired(
    workshop: Workshop, harm: Callable[[Any], None], words: str
) -> None:
    environment = reader(workshop, workshop.upstream("prep", "s1", {"a": b"A"}))
    harm(workshop.store)

    assert workshop.live(environment) == 66

    failure = workshop.failure()
    assert failure is not None
    assert failure.message == f"{workshop.store.url_of(KEY)} is not what its receipt says: {words}. {SENTENCE}"
    assert done(workshop) == set()


@pytest.mark.parametrize(
    "damaged",
    [
        lambda text: text[:-5],
        lambda text: text.replace(b'"size_bytes": 1', b'"size_bytes": "1"'),
        lambda text: text.replace(b'"metrics": {}', b'"metrics": []'),
        lambda text: text.replace(b'"attempt": 1', b'"attempt": null'),
    ],
    ids=["cut off", "text for a number", "list for a table", "nothing for a number"],
)
def test_a_receipt_that_cannot_be_read_is_retired(workshop: Workshop, damaged: Callable[[bytes], bytes]) -> None:
    """It is long enough to count until somebody reads it."""
    fingerprint = workshop.upstream("prep", "s1", {"a": b"A"})
    environment = reader(workshop, fingerprint)
    key = layout.receipt("prep", "s1", fingerprint)
    text = workshop.store.get(key)
    workshop.store.put(key, damaged(text))
    assert workshop.store.get(key) != text
    assert done(workshop) == {("prep", "s1")}

    assert workshop.live(environment) == 66

    failure = workshop.failure()
    assert failure is not None
    assert "The receipt of prep for s1 cannot be read" in failure.message
    assert failure.message.endswith(SENTENCE)
    assert done(workshop) == set()


def test_an_input_that_its_reader_changed_is_made_again(folder_workshop: Workshop) -> None:
    workshop = folder_workshop
    fingerprint = workshop.upstream("prep", "s1", {"a": b"A"})
    environment = workshop.submit(
        [Row(sample="s1", fingerprint="f" * 16, upstream={"prep": fingerprint})],
        script="step.sh",
        bundle_sha256=workshop.bundle({"step.sh": '#!/bin/sh\necho -n X >"$INPUT_X"\ntouch y\n'}),
        inputs=(InputSpec(port="x", kind="step", step="prep", files=("a",)),),
        outputs=(OutputSpec(port="y", files=("y",)),),
    )
    assert workshop.live(environment) == 65
    assert b"Inputs are read-only" in workshop.log
    assert done(workshop) == set()


def test_the_same_bytes_written_again_are_as_good(workshop: Workshop) -> None:
    environment = reader(workshop, workshop.upstream("prep", "s1", {"a": b"A"}))
    workshop.store.put(KEY, b"A")

    assert workshop.live(environment) == 0
    assert done(workshop) == {("prep", "s1"), ("copy", "s1")}


def test_where_nobody_noted_when_a_file_was_published_its_size_tells(folder_workshop: Workshop) -> None:
    """A link is not read; so it was when its receipt was written."""
    workshop = folder_workshop
    environment = reader(workshop, workshop.upstream("prep", "s1", {"a": b"A"}, noted=False))
    workshop.store.put(KEY, b"B")
    assert workshop.live(environment) == 0
    workshop.store.put(KEY, b"BB")
    assert workshop.live(environment) == 66
    assert ("prep", "s1") not in done(workshop)


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_receipt_that_was_replaced_meanwhile_stays(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Another run makes the cell again while its old result is looked at."""
    environment = reader(workshop, workshop.upstream("prep", "s1", {"a": b"A"}))
    workshop.store.put(KEY, b"longer")
    looks: list[str] = []
    kind = FolderFiles if workshop.store.folder else ObjectFiles
    look = kind.look

    def looked(files: Any, key: str) -> tuple[int, str]:
        looks.append(key)
        if len(looks) == after:
            workshop.upstream("prep", "s1", {"a": b"new"})
        return look(files, key)

    monkeypatch.setattr(kind, "look", looked)
    assert workshop.live(environment) == 66
    assert len(looks) == min(after, 2)
    assert ("prep", "s1") in done(workshop) or after == 3


def test_a_gather_retires_all_receipts_that_it_finds_untrue(workshop: Workshop) -> None:
    names = [f"s{number}" for number in range(5)]
    cells = [[name, workshop.upstream("prep", name, {"a": name.encode()})] for name in names]
    environment = workshop.submit(
        [Row(sample=layout.COHORT, fingerprint="e" * 16)],
        step="table",
        scope="cohort",
        script="step.sh",
        bundle_sha256=workshop.bundle({"step.sh": "#!/bin/sh\ntouch t\n"}),
        inputs=(InputSpec(port="x", kind="gather", step="prep", files=("a",)),),
        outputs=(OutputSpec(port="t", files=("t",)),),
        gathered={"prep": cells},
    )
    workshop.store.delete([layout.result("prep", "s1", "a")])
    workshop.store.put(layout.result("prep", "s3", "a"), b"longer")

    assert workshop.live(environment) == 66

    assert done(workshop) == {("prep", "s0"), ("prep", "s2"), ("prep", "s4")}


def test_what_cannot_be_noted_is_told_with_what_to_do(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprint = workshop.upstream("prep", "s1", {"a": b"A"})
    environment = reader(workshop, fingerprint)
    workshop.store.delete([KEY])
    kind = FolderFiles if workshop.store.folder else ObjectFiles
    write = kind.write

    def refusing(files: Any, key: str, data: bytes, **options: Any) -> None:
        if key.startswith(layout.RETIRED):
            raise StoreFailed("The role may not.")
        write(files, key, data, **options)

    monkeypatch.setattr(kind, "write", refusing)
    assert workshop.live(environment) == 66
    failure = workshop.failure()
    assert failure is not None
    receipt = workshop.store.url_of(layout.receipt("prep", "s1", fingerprint))
    assert failure.message.endswith(f"That could not be noted (The role may not.): remove {receipt} and run again.")


def test_a_published_output_is_known_by_its_version(folder_workshop: Workshop) -> None:
    workshop = folder_workshop
    assert workshop.live(reader(workshop, workshop.upstream("prep", "s1", {"a": b"A"}))) == 0
    receipt = workshop.receipt()
    assert receipt is not None
    assert workshop.store.folder
    path = workshop.store.folder / receipt.outputs[0].key
    assert receipt.outputs[0].etag == workshop.store.version(workshop.store.head(receipt.outputs[0].key))
    os.utime(path, (1, 1))
    assert receipt.outputs[0].etag != workshop.store.version(workshop.store.head(receipt.outputs[0].key))
