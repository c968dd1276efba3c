"""`init` writes a project that runs, and changes nothing that is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from batch_pipeline.cli.group import VERBS, WITHOUT_PIPELINE
from batch_pipeline.config import load_settings
from tests.cli.letters import Run

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    "README.md",
    "batch_pipeline.toml",
    "data/ashes.txt.gz",
    "data/tyger.txt.gz",
    "dockerfiles/unpack/Dockerfile",
    "fusions2.py",
    "samples.csv",
    "test_fusions2.py",
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_project_is_written_and_the_two_next_commands_are_printed(run: Run, tmp_path: Path) -> None:
    ended = run("init", "fusions2", workflow=None)
    assert ended.code == 0, ended.err
    assert sorted(tree(tmp_path / "fusions2")) == FILES
    first, *commands = ended.out.splitlines()
    assert first.startswith("Wrote 8 files into fusions2/.")
    assert [line.strip().split(" && ")[0] for line in commands] == ["cd fusions2"] * 2
    assert commands[0].endswith(" fusions2.py")
    assert commands[1].endswith(" -m pytest")


def test_where_pytest_is_not_installed_it_says_how_to_get_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "pytest" not in run("init", "here", workflow=None).err
    monkeypatch.setattr("batch_pipeline.cli.init.find_spec", lambda name: None)
    ended = run("init", "bare", workflow=None)
    assert ended.code == 0
    assert ended.err.rstrip().endswith("-m pip install pytest")


def test_json_names_the_folder_its_files_and_the_commands(run: Run, tmp_path: Path) -> None:
    told = json.loads(run("init", "fusions2", "--json", workflow=None).out)
    assert (told["folder"], told["files"]) == (str(tmp_path / "fusions2"), FILES)
    assert len(told["commands"]) == 2


def test_the_name_stands_where_the_template_has_its_own(run: Run, tmp_path: Path) -> None:
    run("init", "word_table", workflow=None)
    folder = tmp_path / "word_table"
    texts = [file.read_text() for file in folder.rglob("*") if file.is_file() and file.suffix != ".gz"]
    assert not any("my_pipeline" in text or "MyPipeline" in text for text in texts)
    assert "class WordTablePipeline(WorkflowTask):" in (folder / "word_table.py").read_text()
    assert os.access(folder / "word_table.py", os.X_OK)
    assert len((folder / "README.md").read_text().splitlines()) <= 12
    assert load_settings({}, environ={}, folder=folder).pipeline.name == "word_table"


def test_two_projects_of_a_name_have_the_same_bytes(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        assert run("init", "same", workflow=None).code == 0
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


@pytest.mark.parametrize("name", ["A", "9", "a-b", "a/b", "../a", "class", "a" * 41, "é", ""])
def test_a_name_that_is_no_modules_is_refused(run: Run, tmp_path: Path, name: str) -> None:
    ended = run("init", name, workflow=None)
    assert (ended.code, list(tmp_path.iterdir())) == (2, [])
    assert "cannot be that of a Python module" in ended.err


@pytest.mark.parametrize("name", ["json", "batch_pipeline", "sh", "click"])
def test_a_name_that_would_hide_a_module_is_refused(run: Run, tmp_path: Path, name: str) -> None:
    ended = run("init", name, workflow=None)
    assert (ended.code, list(tmp_path.iterdir())) == (2, [])
    assert f"Python has a module {name!r}" in ended.err


def test_a_folder_with_content_is_left_alone_and_an_empty_one_is_filled(run: Run, tmp_path: Path) -> None:
    for name in ("full", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    (tmp_path / "a_file").write_text("mine")
    for name in ("full", "a_file"):
        ended = run("init", name, workflow=None)
        assert ended.code == 2
        assert f"{tmp_path / name} exists and is not empty" in ended.err
    assert tree(tmp_path) == {"full/notes": b"mine", "a_file": b"mine"}
    assert run("init", "empty", workflow=None).code == 0


def test_a_verb_that_needs_a_pipeline_tells_how_to_begin_one(run: Run) -> None:
    assert "init" in WITHOUT_PIPELINE
    assert next(iter(VERBS)) == "init"
    assert "`batch-pipeline init NAME`" in run("run", workflow=None).err


@pytest.mark.engine
def test_a_new_projects_own_tests_pass(run: Run, tmp_path: Path) -> None:
    """One of them runs one cell of each step as jobs."""
    run("init", "fusions2", workflow=None)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path / "fusions2",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert "3 passed" in ran.stdout
