"""Somebody who has the wheel and no clone: the command, a new project, its run, its tests, its images' recipes."""

from __future__ import annotations

import json

import pytest

from batch_pipeline.deploy.recipes import recipes
from tests.installed.conftest import ROOT, Installed

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.xdist_group("installed")]


def test_the_wheel_has_its_data_and_no_fusion_steps(names: list[str]) -> None:
    package = ROOT / "batch_pipeline"
    files = {
        file.relative_to(ROOT).as_posix()
        for file in package.rglob("*")
        if file.is_file() and file.suffix != ".pyc" and "__pycache__" not in file.parts
    }
    # Both ways: nothing is left out, and nothing else is in.
    assert {name for name in names if ".dist-info/" not in name} == files
    assert {f"batch_pipeline/deploy/dockerfiles/{image}/Dockerfile" for image in ("base", "driver", "r")} <= files


def test_a_new_project_runs_and_its_tests_pass_without_a_clone(installed: Installed) -> None:
    where = installed("python", "-c", "import batch_pipeline; print(batch_pipeline.__file__)")
    assert str(installed.python.parents[1]) in where
    told = installed("batch-pipeline", "init", "my_words")
    assert "cd my_words && python my_words.py" in told
    project = installed.folder / "my_words"
    installed("python", "my_words.py", folder=project)
    assert (project / "store" / "cohort" / "table" / "counts.tsv").read_text() == "ashes\t3\ntyger\t2\n"
    assert "Nothing to do: 5 of 5" in installed("python", "my_words.py", folder=project)
    assert "table" in installed("batch-pipeline", "status", "--store", "store", folder=project)
    assert "3 passed" in installed("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", folder=project)


def test_its_images_have_recipes_and_pins_without_a_clone(installed: Installed) -> None:
    installed("batch-pipeline", "init", "my_words")
    project = installed.folder / "my_words"
    words = ("deploy", "images", "driver", "--dry-run", "--json", "--container", "podman")
    images = json.loads(installed("python", "my_words.py", *words, folder=project))["images"]
    assert [image["name"] for image in images] == ["base", "driver", "unpack"]
    # The same as a clone has, so that who has the wheel and who has a clone share images.
    program = (
        "import json; from pathlib import Path; from batch_pipeline.deploy.recipes import recipes;"
        " print(json.dumps({name: recipe.inputs for name, recipe in recipes(Path('.'), '', ['driver']).items()}))"
    )
    theirs = json.loads(installed("python", "-c", program, folder=project))
    assert theirs == {name: recipe.inputs for name, recipe in recipes(project, "", ["driver"]).items()}


def test_what_is_missing_is_named_with_the_extra(installed: Installed) -> None:
    program = "from batch_pipeline.cli.installation import install_command; print(install_command('client'))"
    told = installed("python", "-c", program)
    assert told == f"{installed.python} -m pip install 'batch-pipeline[client]'\n"
