"""The zip of the steps' code."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.run import bundle as bundles
from batch_pipeline.run.bundle import make_bundle, upload
from batch_pipeline.wire.errors import InvalidPipeline
from batch_pipeline.wire.store import Store
from tests.run.small import Letters


@pytest.fixture
def graph(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Graph:
    """A graph whose code is three files of a folder."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b/tool.sh").write_text("#!/bin/sh\n")
    (tmp_path / "b/tool.sh").chmod(0o755)
    (tmp_path / "a.py").write_text("one = 1\n")
    (tmp_path / "c.txt").write_text("plain")
    found = Graph.of(Letters)
    monkeypatch.setattr(bundles, "code_of", lambda step, root: (Path("c.txt"), Path("b/tool.sh"), Path("a.py")))
    return Graph(name=found.name, root=tmp_path, nodes=found.nodes)


def members(data: bytes) -> list[zipfile.ZipInfo]:
    return zipfile.ZipFile(io.BytesIO(data)).infolist()


def test_the_same_bytes_make_the_same_bundle_whenever_they_were_written(graph: Graph) -> None:
    before = make_bundle(graph)
    for name in ("a.py", "b/tool.sh", "c.txt"):
        os.utime(graph.root / name, (1, 1))
    (graph.root / "c.txt").chmod(0o600)

    assert make_bundle(graph) == before


def test_names_are_sorted_and_only_the_executable_bit_is_kept(graph: Graph) -> None:
    found = members(make_bundle(graph).data)

    assert [(item.filename, oct(item.external_attr >> 16)) for item in found] == [
        ("a.py", "0o100644"),
        ("b/tool.sh", "0o100755"),
        ("c.txt", "0o100644"),
    ]


@pytest.mark.parametrize("change", ["bytes", "bit"])
def test_other_bytes_or_another_bit_make_another_bundle(graph: Graph, change: str) -> None:
    before = make_bundle(graph)
    path = graph.root / "b/tool.sh"
    path.write_text("#!/bin/bash\n") if change == "bytes" else path.chmod(0o644)

    assert make_bundle(graph).sha256 != before.sha256


def test_it_is_uploaded_once_under_its_digest(graph: Graph, store: Store) -> None:
    bundle = make_bundle(graph)
    url = upload(bundle, store)
    (entry,) = store.list("code")

    assert url == store.url_of(entry.key)
    assert entry.key == f"code/{bundle.sha256}.zip"
    assert upload(bundle, store) == url


def test_the_steps_code_is_in_it() -> None:
    graph = Graph.of(Letters)

    assert "small.py" in {item.filename for item in members(make_bundle(graph).data)}


def test_a_file_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph.of(Letters)
    monkeypatch.setattr(graph["upper"].step.__class__, "files", ("gone.txt",))

    with pytest.raises(InvalidPipeline, match=r"gone\.txt"):
        make_bundle(graph)
