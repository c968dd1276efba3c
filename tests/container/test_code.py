"""A bundle in a process's scratch: exactly what its digest says, whenever it is used."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from batch_pipeline.container.code import Code, bundle_bytes
from batch_pipeline.container.files import ObjectFiles
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import ContractBroken
from tests.container.conftest import Workshop, make_zip

DATA = make_zip({"steps/step.sh": "true\n", "data.txt": "data"})


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "data.txt").write_text("fake"),
        lambda folder: (folder / "data.txt").unlink(),
        lambda folder: (folder / "data.txt").chmod(0o777),
        lambda folder: (folder / "steps/json.py").write_text("import this"),
        lambda folder: (folder / "json.py").write_text("import this"),
        lambda folder: (folder / "steps").rename(folder / "other"),
    ],
)
def test_code_that_was_changed_after_it_was_unpacked_is_unpacked_again(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    folder = tmp_path / "code"
    code, reads = Code(str(folder)), []

    def read() -> bytes:
        reads.append(1)
        return DATA

    assert [code.unpacked(read), code.unpacked(read)] == [str(folder)] * 2
    assert len(reads) == 1
    change(folder)
    assert code.unpacked(read) == str(folder)
    assert len(reads) == 2
    assert sorted(os.listdir(folder)) == ["data.txt", "steps"]
    assert os.listdir(folder / "steps") == ["step.sh"]
    assert (folder / "data.txt").read_text() == "data"
    assert (folder / "data.txt").stat().st_mode & 0o777 == 0o644


def test_what_a_killed_process_unpacked_in_part_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "data.txt").write_text("half")
    code = Code(str(tmp_path / "code"))
    with pytest.raises(ContractBroken):
        code.unpacked(lambda: DATA[:50])
    assert Path(code.unpacked(lambda: DATA), "data.txt").read_text() == "data"


def test_the_cached_archive_is_compared_at_each_use(memory_workshop: Workshop, tmp_path: Path) -> None:
    store = memory_workshop.store
    sha256 = memory_workshop.bundle({"data.txt": "data"})
    key = layout.bundle(sha256)
    whole = store.get(key)
    read = partial(bundle_bytes, ObjectFiles(store, (0.0, 0.0)), key, sha256, str(tmp_path))
    assert read() == whole
    asked = store.calls["get"]
    assert read() == whole
    assert store.calls["get"] == asked
    cached = next(tmp_path.glob("*/cache/objects/*/bundle.zip"))
    cached.write_bytes(make_zip({"data.txt": "fake"}))
    assert read() == cached.read_bytes() == whole
    assert store.calls["get"] == asked + 1
    # Neither is the store's believed.
    cached.unlink()
    store.put(key, make_zip({"data.txt": "fake"}))
    with pytest.raises(ContractBroken, match="promised SHA-256"):
        read()
    assert not cached.exists()


def test_code_in_a_folder_is_read_there(folder_workshop: Workshop) -> None:
    assert folder_workshop.live(folder_workshop.script()) == 0, folder_workshop.log
    assert not folder_workshop.cached.exists()


def test_a_cell_runs_what_the_digest_says_after_another_changed_it(workshop: Workshop) -> None:
    """Cells of one process use the same folder; a script that writes to it harms only itself."""
    workshop.warm["lasts"] = True
    script = '#!/bin/sh\nwc -l < "$0"\ncp "$INPUT_X" y\necho >> "$0"\nexit 0\n'
    try:
        for _ in range(2):
            assert workshop.live(workshop.script(script)) == 0, workshop.log
        assert b"it is unpacked again.\n5\n" in workshop.log
    finally:
        from batch_pipeline.container.process_cache import shut_down

        shut_down(workshop.warm)
    assert workshop.left_in_scratch() == []
