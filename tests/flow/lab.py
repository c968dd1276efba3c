"""A place to run small pipelines in as a user does: a folder, a store, a sample list, and a real embedded Batch.

`Lab.run` gives a command line to the pipeline inside this process, which saves the start of an interpreter a command;
everything below the command line is real, the server and its children are processes. `Lab.start` makes a process of
the command too, for tests that send signals.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline import WorkflowTask, backends
from batch_pipeline.backends.batch import BatchBackend
from batch_pipeline.cli import run_command_line
from batch_pipeline.config import Settings

LETTERS = Path(__file__).resolve().parent / "letters"
REPOSITORY = Path(__file__).resolve().parents[2]
#: (step, sample); a gather's sample is `_cohort`.
Cell = tuple[str, str]
SAMPLES = ("ann", "bob", "cid")
#: The cells of `chain.py`.
ALL: set[Cell] = {*((step, sample) for step in ("lower", "words") for sample in SAMPLES), ("count", "_cohort")}
#: What commands ask of their server: the same as the tests that start it, or it would be replaced by another.
SERVER = {"vcpus": 4, "memory_mb": 4096, "idle_seconds": 60}
#: After so many seconds a wait has failed.
PATIENCE = 60.0


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str
    #: API operations by name.
    calls: Counter[str] = field(default_factory=Counter)

    @property
    def store_calls(self) -> int:
        """What `--verbose` told of planning."""
        told = next(line for line in self.err.splitlines() if line.startswith("Store calls for planning"))
        return int(told.rpartition("(")[2].split()[0])


@dataclass(kw_only=True)
class Lab:
    """One pipeline's folder and store. `state` is the embedded Batch's, shared by a session of tests."""

    folder: Path
    state: Path
    capture: pytest.CaptureFixture[str]
    file: str = "chain.py"
    made: list[BatchBackend] = field(default_factory=list)

    @property
    def pipeline(self) -> Path:
        return self.folder / "letters"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def sources(self) -> Path:
        return self.folder / "texts"

    @property
    def sample_list(self) -> Path:
        return self.folder / "samples.txt"

    def set_up(self) -> None:
        shutil.copytree(LETTERS, self.pipeline, ignore=shutil.ignore_patterns("__pycache__"))
        self.sources.mkdir()
        self.samples(*SAMPLES)

    def samples(self, *names: str) -> None:
        """The list; texts are made for new names."""
        self.sample_list.write_text("".join(f"{name}\n" for name in names))
        for name in names:
            if not (self.sources / f"{name}.txt").exists():
                self.text(name, f"The words of {name}\n")

    def text(self, sample: str, text: str) -> None:
        (self.sources / f"{sample}.txt").write_text(text)

    def edit(self, name: str, old: str, new: str) -> None:
        """Changes a file of the pipeline."""
        path = self.pipeline / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    # Commands.

    def arguments(self, *words: str) -> list[str]:
        """A whole command line; the verb, if any, comes first."""
        verb = [words[0]] if words and not words[0].startswith("-") else []
        options = ["--store", str(self.store)]
        if not verb or verb[0] in ("plan", "status"):
            options += ["--sample-list-file", str(self.sample_list), "--sources", str(self.sources)]
        return [*verb, *options, *words[len(verb) :]]

    def run(self, *words: str, code: int | None = 0) -> Ran:
        """Gives a command line to the pipeline and checks its exit code."""
        self.capture.readouterr()
        before = len(self.made)
        ended = run_command_line(self._workflow(), self.arguments(*words))
        out, err = self.capture.readouterr()
        calls: Counter[str] = sum((backend.calls for backend in self.made[before:]), Counter())
        assert code is None or ended == code, f"exit {ended}\n{out}\n{err}"
        return Ran(code=ended, out=out, err=err, calls=calls)

    def start(self, *words: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """The same as a process of its own."""
        return subprocess.Popen(
            [sys.executable, str(self.pipeline / self.file), *self.arguments(*words)],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), **(env or {})},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def json(self, *words: str, code: int | None = 0) -> Any:
        return json.loads(self.run(*words, "--json", code=code).out)

    def remember(self, make: Callable[[Settings], Any]) -> Callable[[Settings], Any]:
        """A maker of backends that keeps them, to count their calls."""

        def kept(settings: Settings) -> Any:
            self.made.append(make(settings))
            return self.made[-1]

        return kept

    def _workflow(self) -> type[WorkflowTask]:
        """The pipeline as its file is now: read anew, like a new process does."""
        for name in [name for name in sys.modules if name.split(".")[0] == "parts"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        spec = importlib.util.spec_from_file_location("letters_pipeline", self.pipeline / self.file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        sys.path.insert(0, str(self.pipeline))
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(self.pipeline))
        return next(
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, WorkflowTask) and value is not WorkflowTask
        )

    # What the store holds.

    def receipts(self) -> dict[Cell, dict[str, Any]]:
        """Every receipt; a cell with two is an error."""
        found: dict[Cell, dict[str, Any]] = {}
        for path in sorted((self.store / "receipts").glob("*/*/*.json")):
            cell = (path.parts[-3], path.parts[-2])
            assert cell not in found, f"two receipts of {cell}"
            found[cell] = json.loads(path.read_text())
        return found

    def runs(self) -> list[str]:
        """Run ids, oldest first."""
        return sorted(path.name for path in (self.store / "runs").glob("*"))

    def sent(self, run_id: str | None = None) -> set[Cell]:
        """Cells in the submissions of a run (default: the newest)."""
        run_id = run_id or self.runs()[-1]
        cells = set()
        for rows in (self.store / "runs" / run_id / "submissions").glob("*/rows.txt"):
            step = json.loads(rows.with_name("manifest.json").read_text())["step"]
            for line in rows.read_text().splitlines():
                cell = (step, json.loads(line)[0])
                assert cell not in cells, f"{cell} stands in two jobs of one run"
                cells.add(cell)
        return cells

    def receipt_of(self, step: str, sample: str) -> Path:
        (path,) = (self.store / "receipts" / step / sample).glob("*.json")
        return path

    def live(self) -> list[str]:
        """Runs that may have live jobs."""
        return sorted(path.stem for path in (self.store / "live").glob("*.json"))


def until(happened: Callable[[], Any], what: str) -> Any:
    """Waits for something, and returns its value."""
    deadline = time.monotonic() + PATIENCE
    while not (value := happened()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)
    return value


def made_by(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets the lab's server, and counts what is asked of it."""
    monkeypatch.setenv("BATCH_PIPELINE__EMBEDDED__STATE", str(lab.state))
    monkeypatch.setenv("BATCH_PIPELINE__WATCH__POLL_SECONDS", "0.25")
    for name, value in SERVER.items():
        monkeypatch.setenv(f"BATCH_PIPELINE__EMBEDDED__{name.upper()}", str(value))
    monkeypatch.setattr(backends, "create", lab.remember(backends.create))
