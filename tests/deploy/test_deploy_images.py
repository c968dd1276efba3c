"""What images are made of, and how they are pinned; that they are built and pushed is tested with real containers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from batch_pipeline.deploy import recipes as made_of
from batch_pipeline.deploy.recipes import Recipe, recipes
from batch_pipeline.pipeline.fingerprint import step_parts
from batch_pipeline.pipeline.images import FILE, Pin, pins_text, read_pins, with_pinned_images
from batch_pipeline.pipeline.workflow import Graph
from batch_pipeline.wire.errors import InvalidPipeline, InvalidUse
from examples.words import WordCount
from main import Fusions

ROOT = Path(__file__).resolve().parents[2]
DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pipeline's folder with this repository's Dockerfiles."""
    shutil.copytree(ROOT / "dockerfiles", tmp_path / "dockerfiles", ignore=shutil.ignore_patterns("images.json"))
    return tmp_path


def inputs(folder: Path, base_image: str = "") -> dict[str, str]:
    return {name: recipe.inputs for name, recipe in recipes(folder, base_image).items()}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in after if after[name] != before.get(name)}


def test_every_step_of_the_pipeline_has_an_image_and_so_has_its_reference() -> None:
    graph = Graph.of(Fusions)
    assert set(recipes(ROOT, "")) == {"base", *graph.names, "reference"}
    assert next(iter(recipes(ROOT, ""))) == "base"


def test_one_tool_changes_one_image_and_the_base_all(folder: Path) -> None:
    before = inputs(folder)
    assert inputs(folder) == before
    dockerfile = folder / "dockerfiles" / "kallisto" / "Dockerfile"
    dockerfile.write_text(dockerfile.read_text().replace("0.48", "0.50"))
    assert changed(before, inputs(folder)) == {"kallisto"}
    (folder / "dockerfiles" / "pizzly" / "patch").write_text("x")
    assert changed(before, inputs(folder)) == {"kallisto", "pizzly"}
    assert changed(before, inputs(folder, "another/debian:12")) == set(before)


def test_images_of_drivers_are_there_when_they_are_named(folder: Path) -> None:
    before = inputs(folder)
    named = {name: recipe.inputs for name, recipe in recipes(folder, "", ["driver", "r"]).items()}
    assert set(named) - set(before) == {"driver", "r"}
    assert {name: named[name] for name in before} == before


def test_any_code_of_the_package_changes_the_drivers_image_and_not_the_base(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "elsewhere" / "batch_pipeline"
    shutil.copytree(ROOT / "batch_pipeline", package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(made_of, "_HERE", package)
    before = {name: recipe.inputs for name, recipe in recipes(folder, "", ["driver", "r"]).items()}
    (package / "cli" / "run.py").write_text("")
    after = {name: recipe.inputs for name, recipe in recipes(folder, "", ["driver", "r"]).items()}
    assert changed(before, after) == {"driver"}


def test_code_of_the_container_changes_the_base(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = inputs(folder)
    package = tmp_path / "elsewhere" / "batch_pipeline"
    shutil.copytree(ROOT / "batch_pipeline", package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(made_of, "_HERE", package)
    assert inputs(folder) == before
    (package / "cli" / "run.py").write_text("")
    assert inputs(folder) == before
    (package / "container" / "cell.py").write_text("")
    assert changed(before, inputs(folder)) == set(before)


def test_what_goes_into_the_base_runs_by_itself(folder: Path, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    base = recipes(folder, "")["base"]
    step = Recipe(name="picard", folder=base.folder, inputs="")
    step.fill(context)
    assert sorted(path.name for path in context.iterdir()) == ["Dockerfile"]
    for file in made_of._code_files():
        target = context / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    modules = [
        str(file.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
        for file in made_of._code_files()
        if file.name != "__main__.py"
    ]
    names = "from batch_pipeline import Input, InvalidOutput, Job, Output, Param, Reference, Scope, Step, WorkflowTask"
    check = f"import batch_pipeline; assert batch_pipeline.__file__.startswith({str(context)!r})"
    program = "\n".join((check, names, *(f"import {module}" for module in modules)))
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=context,
        env={"PYTHONPATH": str(context)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_packages_are_asked_for_by_checksum_and_nobody_names_an_index() -> None:
    lines = made_of._requirements(ROOT, "base").splitlines()
    assert [line.partition("==")[0] for line in lines] == ["obstore", "sh", "typing-extensions"]
    assert all(line.count("--hash=sha256:") >= 1 for line in lines)
    texts = [path.read_text() for path in (ROOT / "dockerfiles").glob("*/Dockerfile")]
    assert not any(re.search(r"https?://|pip install|index-url", text) for text in (*texts, *lines))


def test_dockerfiles_pin_their_tools_leave_nothing_and_give_up_root() -> None:
    for path in (ROOT / "dockerfiles").glob("*/Dockerfile"):
        text = path.read_text()
        assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] == "batch", path
        assert "org.opencontainers.image.title" in text
        installs = re.findall(r"apt-get install .*?(?=&&)", text, re.DOTALL)
        assert len(installs) == 1 or (not installs and "COPY packages" in text), path
        for install in installs:
            assert "--no-install-recommends" in install
            assert re.search(r'"[a-z0-9-]+=\$\{[A-Z]+_VERSION\}"', install), path
            assert "rm -rf /var/lib/apt/lists/*" in text


def test_an_image_has_the_packages_of_the_category_of_its_name(folder: Path) -> None:
    lines = made_of._requirements(ROOT, "cohort").splitlines()
    assert [line.partition("==")[0] for line in lines] == ["numpy", "polars", "polars-runtime-32"]
    assert all("--hash=sha256:" in line for line in lines)
    assert made_of._requirements(ROOT, "picard") == ""
    shutil.copytree(ROOT / "dockerfiles" / "cohort", folder / "dockerfiles" / "cohort", dirs_exist_ok=True)
    shutil.copy(ROOT / "Pipfile.lock", folder)
    before = inputs(folder)
    lock = json.loads((folder / "Pipfile.lock").read_text())
    lock["cohort"]["polars"]["version"] = "==9"
    (folder / "Pipfile.lock").write_text(json.dumps(lock))
    assert changed(before, inputs(folder)) == {"cohort"}


def test_pins_are_read_as_written_and_stay_in_order(tmp_path: Path) -> None:
    assert read_pins(tmp_path) == {}
    pins = {name: Pin(image=f"here/{name}@{DIGEST}", inputs="1") for name in ("words", "base")}
    (tmp_path / "dockerfiles").mkdir()
    (tmp_path / FILE).write_text(pins_text(pins))
    assert read_pins(tmp_path) == pins
    assert list(json.loads(pins_text(pins))["images"]) == ["base", "words"]


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 2, "images": {}}', '{"format": 1, "images": {"a": {"x": 1}}}'])
def test_damaged_pins_are_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "dockerfiles").mkdir()
    (tmp_path / FILE).write_text(text)
    with pytest.raises(InvalidPipeline, match=r"images\.json cannot be read"):
        read_pins(tmp_path)


def test_an_images_digest_is_part_of_its_steps_fingerprint_alone(tmp_path: Path) -> None:
    graph = Graph.of(WordCount)
    (tmp_path / "dockerfiles").mkdir()

    def parts(**digests: str) -> dict[str, str]:
        pins = {name: Pin(image=f"here/{name}@{digest}", inputs="1") for name, digest in digests.items()}
        (tmp_path / FILE).write_text(pins_text(pins))
        pinned = with_pinned_images(replace(graph, root=tmp_path))
        return {node.name: step_parts(node, graph.root, "", {}).digest() for node in pinned}

    before = parts(base="a", words="b")
    assert changed(before, parts(base="a", words="c")) == {"words"}
    # Steps without a folder run in the base.
    assert changed(before, parts(base="x", words="b")) == set(graph.names) - {"words"}


def test_a_pipeline_without_dockerfiles_has_the_base_of_the_package(folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    assert inputs(bare) == {"base": inputs(folder)["base"]}
    assert list(recipes(bare, "", ["driver", "r"])) == ["base", "driver", "r"]


def test_a_pipelines_own_base_and_lock_come_before_those_of_the_package(folder: Path) -> None:
    packaged = inputs(folder)
    (folder / "dockerfiles" / "base" / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\n")
    own = inputs(folder)
    assert changed(packaged, own) == set(packaged)
    (folder / "Pipfile.lock").write_text('{"default": {"sh": {}}}')
    with pytest.raises(InvalidUse, match=r"Pipfile\.lock does not pin obstore, typing-extensions"):
        inputs(folder)


def test_the_package_brings_whole_folders_of_the_repository() -> None:
    packaged = ROOT / "batch_pipeline" / "deploy" / "dockerfiles"
    assert sorted(folder.name for folder in packaged.iterdir()) == ["base", "driver", "r"]
    for folder in packaged.iterdir():
        assert made_of._files(folder) == made_of._files(ROOT / "dockerfiles" / folder.name)
