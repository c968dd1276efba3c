"""Somebody who has the wheel and no clone builds a new project's images, and runs its cells in them."""

from __future__ import annotations

import pytest

from tests.containers.machine import BASE, Machine
from tests.installed.conftest import Installed, _python, installed, wheel

__all__ = ["_python", "installed", "wheel"]
pytestmark = [
    pytest.mark.containers,
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.xdist_group("containers"),
]


def test_a_new_projects_images_are_built_and_its_cells_run_in_them(engine: Machine, installed: Installed) -> None:
    installed.environment.update(
        {
            "BATCH_PIPELINE__EMBEDDED__CONTAINER": "podman",
            "BATCH_PIPELINE__DEPLOY__BUILDER": "podman",
            "BATCH_PIPELINE__DEPLOY__BASE_IMAGE": BASE,
            "BATCH_PIPELINE__DEPLOY__STACK": "installed",
        }
    )
    installed("batch-pipeline", "init", "my_words")
    project = installed.folder / "my_words"
    try:
        told = installed("python", "my_words.py", "deploy", "images", folder=project)
        assert [line.split(":")[0] for line in told.splitlines()] == ["image base", "image unpack"]
        installed("python", "my_words.py", folder=project)
        assert (project / "store" / "cohort" / "table" / "counts.tsv").read_text() == "ashes\t3\ntyger\t2\n"
        # Up to date: nothing is built again.
        assert "built" not in installed("python", "my_words.py", "deploy", "images", folder=project)
    finally:
        # By name: other tests keep the same base under names of theirs, and podman lists these too.
        shape = "{{.Repository}}:{{.Tag}}"
        listed = engine.podman("images", "--format", shape, "--filter", "reference=localhost/installed/*").split()
        ours = [name for name in listed if name.startswith("localhost/installed/")]
        engine.podman("rmi", *ours) if ours else None
