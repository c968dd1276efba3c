"""`run --prepare` where the steps' images are missing on this machine: built by podman, as tasks of Luigi, once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch_pipeline.localbatch.client import stop
from batch_pipeline.pipeline.images import read_pins
from tests.containers.machine import BASE, Machine

pytestmark = [pytest.mark.containers, pytest.mark.engine, pytest.mark.xdist_group("containers")]

ROOT = Path(__file__).resolve().parents[2]
STACK = "prepared"
#: Its images are quickly built and have no Python: what is tested is what happens before a cell runs.
PIPELINE = """
from batch_pipeline import Input, Output, Step, WorkflowTask


class Copy(Step):
    memory_mb = 64
    text = Input()
    copied = Output("{sample}.copy.txt")
    command = "cp {text} {copied}"


class Copies(WorkflowTask):
    def workflow(self) -> None:
        copy = self.new_task("copy", Copy)
        copy.in_text = self.source("{sample}.txt")


if __name__ == "__main__":
    Copies.main()
"""


@pytest.fixture
def folder(engine: Machine, tmp_path: Path) -> Iterator[Path]:
    """A pipeline with Dockerfiles that are quickly built."""
    (tmp_path / "main.py").write_text(PIPELINE)
    (tmp_path / "samples.txt").write_text("ann\n")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "ann.txt").write_text("ann\n")
    for name, source in (("base", "ARG BASE\nFROM ${BASE}\n"), ("copy", "ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n")):
        (tmp_path / "dockerfiles" / name).mkdir(parents=True)
        (tmp_path / "dockerfiles" / name / "Dockerfile").write_text(f"{source}ENV STEP={name}\n")
    yield tmp_path
    stop(tmp_path / "state")
    listed = engine.podman("images", "--quiet", "--filter", f"reference=localhost/{STACK}/*").split()
    engine.podman("rmi", "--force", *dict.fromkeys(listed)) if listed else None


def give(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    told = {
        "PYTHONPATH": str(ROOT),
        "BATCH_PIPELINE__EMBEDDED__STATE": str(folder / "state"),
        "BATCH_PIPELINE__EMBEDDED__CONTAINER": "podman",
        "BATCH_PIPELINE__DEPLOY__BUILDER": "podman",
        "BATCH_PIPELINE__DEPLOY__BASE_IMAGE": BASE,
        "BATCH_PIPELINE__DEPLOY__STACK": STACK,
        "BATCH_PIPELINE__WATCH__POLL_SECONDS": "0.25",
    }
    options = ["--sample-list-file", "samples.txt", "--sources", "texts", "--store", "store"]
    return subprocess.run(
        [sys.executable, "main.py", *words, *options],
        cwd=folder,
        env={**os.environ, **told},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_a_missing_image_is_built_before_the_run_and_once(folder: Path, engine: Machine) -> None:
    planned = give(folder, "plan", "--prepare")
    assert "image_copy   would be made: it was never built" in planned.stdout, planned.stderr
    assert read_pins(folder) == {}

    ran = give(folder, "run", "--prepare", "--detach")

    assert "Preparing the image copy (it was never built) …" in ran.stderr
    image = read_pins(folder)["copy"].image
    assert image.startswith(f"localhost/{STACK}/copy@sha256:")
    engine.podman("image", "exists", image)
    assert "Submitted copy-0-0: 1 cell of copy" in ran.stderr, ran.stderr
    (definition,) = (folder / "store" / "runs").glob("*/definitions.json")
    assert image in definition.read_text(), "the run is submitted by the image that was just built"

    assert "would be made" not in give(folder, "plan", "--prepare").stdout

    # What this machine lost is built again.
    engine.podman("rmi", "--force", image)
    assert "image_copy   would be made: it is not on this machine" in give(folder, "plan", "--prepare").stdout
