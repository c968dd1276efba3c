"""A person at a prompt: a folder with the pipeline's files, commands given there, and what they left in a store."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from batch_pipeline.wire.receipt import Failure, Receipt

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS = ("picard", "kallisto", "pizzly")
#: (step, sample)
Cell = tuple[str, str]
#: A command that takes longer hangs; a loaded machine of two cores takes a tenth of it.
PATIENCE = 300.0


@dataclass(frozen=True, kw_only=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """All that a person saw, without line breaks."""
        return " ".join((self.out + self.err).split())

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def store_calls(self) -> int:
        """What `--verbose` told of planning."""
        found = re.search(r"Store calls for planning: .*\((\d+) in all\)", self.err)
        assert found, self.err
        return int(found[1])


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The folder, with copies of main.py and steps/, and the environment that commands get."""

    folder: Path
    environment: dict[str, str]

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "main.py", *words],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *words: str, code: int | None = 0, patience: float = PATIENCE) -> Said:
        process = self.start(*words)
        try:
            out, err = process.communicate(timeout=patience)
        finally:
            process.kill()
        said = Said(code=process.returncode, out=out, err=err)
        assert code is None or said.code == code, f"{words}: exit {said.code}\n{out}\n{err}"
        assert "Traceback" not in said.words, said.words
        return said

    @contextmanager
    def edited(self, name: str, edit: Callable[[str], str]) -> Iterator[None]:
        """A file of the pipeline is another one for a while."""
        path = self.folder / name
        text = path.read_text()
        changed = edit(text)
        assert changed != text
        path.write_text(changed)
        try:
            yield
        finally:
            path.write_text(text)


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """A store in the prompt's folder, with its samples' BAMs, and commands about it."""

    prompt: Prompt
    name: str
    options: tuple[str, ...] = field(default=("--strandedness", "none"))

    @property
    def folder(self) -> Path:
        return self.prompt.folder / "store" / self.name

    @property
    def sample_list(self) -> Path:
        return self.prompt.folder / f"{self.name}.txt"

    def choose(self, *samples: str) -> None:
        """Writes the sample list."""
        self.sample_list.write_text("".join(f"{sample}\n" for sample in samples))

    def bam(self, sample: str) -> Path:
        path = self.folder / "SR" / f"{sample}.bam"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def give(self, verb: str, *words: str, code: int | None = 0) -> Said:
        """A command about this store's cells."""
        fixed = ("--bucket-name", self.name, "--sample-list-file", self.sample_list.name, *self.options)
        return self.prompt(verb, *fixed, *words, code=code)

    def run(self, *words: str, code: int | None = 0) -> Said:
        return self.give("run", *words, code=code)

    # What the store holds.

    def receipts(self) -> dict[Cell, Receipt]:
        """Every receipt; a cell with two is an error."""
        found: dict[Cell, Receipt] = {}
        for path in sorted((self.folder / "receipts").glob("*/*/*.json")):
            cell = (path.parts[-3], path.parts[-2])
            if cell[0] in STEPS:
                assert cell not in found, f"two receipts of {cell}"
                found[cell] = Receipt.from_json(json.loads(path.read_text()))
        return found

    def receipt_file(self, step: str, sample: str) -> Path:
        [path] = (self.folder / "receipts" / step / sample).glob("*.json")
        return path

    def failure(self, step: str, sample: str) -> Failure:
        """The last run's record of a failed cell."""
        path = self.folder / "logs" / self.runs()[-1] / step / sample / "1.failure.json"
        return Failure.from_json(json.loads(path.read_text()))

    def runs(self) -> list[str]:
        """Ids of the runs, oldest first, without those that sent gathers alone."""
        gathers = {"cohort", "multiqc"}
        sent = {run: {path.name for path in run.glob("submissions/*")} for run in (self.folder / "runs").glob("*")}
        return sorted(run.name for run, jobs in sent.items() if not jobs or jobs - gathers)

    def jobs(self, run_id: str) -> dict[str, set[str]]:
        """Job -> samples, of all that a run submitted but gathers."""
        sent = {}
        for told in (self.folder / "runs" / run_id / "submissions").glob("*-*-*/sent.json"):
            lines = told.with_name("rows.txt").read_text().splitlines()
            sent[told.parent.name] = {json.loads(line)[0] for line in lines}
        return sent

    def result(self, step: str, sample: str, name: str) -> Path:
        return self.folder / "results" / step / sample / name


def moment(stamp: str) -> datetime:
    """A receipt's time."""
    return datetime.fromisoformat(stamp)


def cells(samples: str, *steps: str) -> set[Cell]:
    """`cells("ann bob", "picard")`: all steps when none is given."""
    return {(step, sample) for sample in samples.split() for step in steps or STEPS}


def environment(folder: Path, cache: Path) -> dict[str, str]:
    """What a command sees: nothing of whoever runs the tests but the PATH, and an engine of its own."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "XDG_CACHE_HOME": str(cache),
        "PYTHONPATH": str(REPOSITORY),
        "COLUMNS": "200",
        "BATCH_PIPELINE__EMBEDDED__STATE": str(folder / "engine"),
        "BATCH_PIPELINE__EMBEDDED__IDLE_SECONDS": "120",
        "BATCH_PIPELINE__EMBEDDED__VCPUS": "2",
        # Kallisto asks for room for a whole transcriptome; these are small, and so may the machine be.
        "BATCH_PIPELINE__EMBEDDED__MEMORY_MB": "16384",
    }


def until(happened: Callable[[], Any], what: str) -> Any:
    """Waits for something, and returns its value."""
    deadline = time.monotonic() + PATIENCE
    while not (value := happened()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)
    return value
