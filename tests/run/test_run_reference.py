"""Whether a reference must be built from the files given, asked without uploading or sending anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from batch_pipeline.config import load_settings
from batch_pipeline.run.reference import missing_reference
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.store import Store, open_store
from tests.cli.letters import Aligned


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """The inputs of the builder."""
    for name in ("a.fa", "a.gtf"):
        (tmp_path / name).write_text(f"{name}\n")
    return {"fasta": str(tmp_path / "a.fa"), "gtf": str(tmp_path / "a.gtf")}


def missing(store: Store, files: dict[str, str]) -> str:
    return missing_reference(Aligned, load_settings(environ={}), store, "en", files)


def test_in_a_folder_files_are_read_in_place(tmp_path: Path, files: dict[str, str]) -> None:
    store = open_store(str(tmp_path / "store"), create=True)
    assert missing(store, files) == "it is not built"
    assert list(store.keys("")) == []


def test_elsewhere_a_file_that_is_not_uploaded_or_has_another_size_is_a_reason(files: dict[str, str]) -> None:
    store = open_store("memory://missing-reference", create=True)
    assert missing(store, files) == "its file for fasta is not uploaded"
    for port, file in files.items():
        store.put(layout.reference("en", f"source/{Path(file).name}"), Path(file).read_bytes())
        assert missing(store, files) == {"fasta": "its file for gtf is not uploaded", "gtf": "it is not built"}[port]
    Path(files["gtf"]).write_text("longer than before\n")
    assert missing(store, files) == "its file for gtf has changed"
    assert len(list(store.keys(""))) == 2, "nothing is written"


def test_a_url_is_taken_as_it_is(files: dict[str, str]) -> None:
    store = open_store("memory://missing-urls", create=True)
    for port in files:
        store.put(f"elsewhere/{port}", b"x")
    urls = {port: store.url_of(f"elsewhere/{port}") for port in files}
    assert missing(store, urls) == "it is not built"


def test_a_file_that_is_not_given_is_named(files: dict[str, str]) -> None:
    del files["gtf"]
    with pytest.raises(
        InvalidUse, match=r"The reference needs a file for gtf: give --gtf FILE, or with --prepare --ref"
    ):
        missing(open_store("memory://missing-file", create=True), files)
