"""Which folders of this machine containers are given beside the store."""

from __future__ import annotations

from pathlib import Path

from batch_pipeline.config import load_settings
from batch_pipeline.pipeline.samples import parse_samples
from batch_pipeline.run.folders import local_folders
from batch_pipeline.wire.store import Store
from tests.run.small import request_of

IN_CONTAINERS = {"backend.name": "embedded", "embedded.container": "podman"}


def test_files_that_a_sheet_names_are_given_wherever_they_lie(store: Store, tmp_path: Path) -> None:
    for folder in ("beside", "far"):
        (tmp_path / folder).mkdir()
    sheet = f"sample,file\none,{tmp_path}/far/a.txt\ntwo,beside/b.txt\nthree,nowhere/c.txt\nfour,s3://b/d.txt\n"
    request = request_of(
        store,
        "plain",
        samples=parse_samples(sheet.encode(), "s.csv"),
        settings=load_settings(IN_CONTAINERS, environ={}, folder=Path("/nowhere")),
        sheet_folder=str(tmp_path),
    )
    assert local_folders(request) == (f"{tmp_path}/beside", f"{tmp_path}/far")
