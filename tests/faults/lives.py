"""Commands that are killed at a chosen call, and what must hold when they are given again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch_pipeline.backends.aws_clients import Clients, embedded_maker
from batch_pipeline.config import Settings, load_settings
from batch_pipeline.run.lock import DriverLock
from batch_pipeline.wire.store import open_store

KILLER = Path(__file__).with_name("killer.py")
LETTERS = Path(__file__).resolve().parents[1] / "flow" / "letters"
REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLES = ("ann", "bob", "cid")
CELLS: set[tuple[str, ...]] = {(step, sample) for step in ("lower", "words") for sample in SAMPLES}
STATES = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING", "SUCCEEDED", "FAILED")


@dataclass(frozen=True, kw_only=True)
class Life:
    """How one command ended: its exit code, or minus the signal, and the calls that it began."""

    code: int
    calls: Sequence[str]
    said: str


class Killer:
    """A process that forks one life after the other."""

    def __init__(self, file: Path, environment: dict[str, str], told: Path) -> None:
        #: What it says in trouble.
        self._told = told
        with told.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(KILLER), str(file)],
                env={**environment, "PYTHONPATH": str(REPOSITORY)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def live(self, world: World, *words: str, n: int = 0) -> Life:
        """Runs a command in the world; it dies before its n-th call, if it gets so far."""
        world.lives += 1
        folder = world.folder / f"life-{world.lives}"
        asked = {"n": n, "folder": str(folder), "arguments": world.arguments(*words)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # it tells how it ended by saying nothing
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"The process that forks commands ended with {self._process.wait()}: {self._told.read_text()}"
        told = json.loads(answer)
        said = (folder / "out").read_text() + (folder / "err").read_text()
        return Life(code=told["code"], calls=told["calls"], said=said)

    def close(self) -> None:
        """Ends it, if it has not ended."""
        self._process.communicate(timeout=60)


@dataclass(kw_only=True)
class World:
    """A store, sources and a queue of their own on a shared server."""

    folder: Path
    queue: str
    lives: int = 0

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def gate(self) -> Path:
        return self.folder / "gate"

    def set_up(self, *, closed: bool = False) -> None:
        (self.folder / "texts").mkdir(parents=True)
        for sample in SAMPLES:
            wait = f"WAIT {self.gate}\n" if closed else ""
            (self.folder / "texts" / f"{sample}.txt").write_text(f"{wait}The words of {sample}\n")
        (self.folder / "samples.txt").write_text("".join(f"{sample}\n" for sample in SAMPLES))

    def arguments(self, *words: str) -> list[str]:
        folder = self.folder
        options = {"store": self.store, "queue": self.queue, "sample-list-file": folder / "samples.txt"}
        options["sources"] = folder / "texts"
        return [*(f"--{name}={value}" for name, value in options.items()), *words]

    def check_whole(self) -> None:
        """Every cell is done, was submitted once in all, nothing is left live, and the next driver gets the lock.

        One that was killed may have it still: who only followed its jobs took nothing over.
        """
        receipts = [path.parts[-3:-1] for path in (self.store / "receipts").glob("*/*/*.json")]
        assert sorted(receipts) == sorted(CELLS)
        for sample in SAMPLES:
            words = (self.store / f"results/words/{sample}/{sample}.words.txt").read_text().split()
            assert {"the", "words", "of", sample} <= set(words)
        self.check_once(CELLS)
        assert not list((self.store / "live").glob("*.json"))
        lock = DriverLock(open_store(str(self.store)))
        lock.take()
        lock.release()

    def check_once(self, expected: set[tuple[str, ...]]) -> None:
        """The server's jobs hold each expected cell once, under names that the store knows."""
        known = {json.loads(path.read_text())["native_name"]: path for path in self._intents()}
        submitted = self.jobs()
        assert max(Counter(job["jobName"] for job in submitted).values()) == 1
        cells = Counter(cell for job in submitted for cell in self._cells(known[job["jobName"]]))
        assert cells == Counter(dict.fromkeys(expected, 1))
        assert {job["status"] for job in submitted} <= {"SUCCEEDED"}

    def jobs(self) -> list[dict[str, Any]]:
        """All that was ever submitted to the queue, as the server tells."""
        clients = Clients(embedded_maker(settings_of(self.state).embedded), renewable=True)
        try:
            if not clients.read("describe_job_queues", jobQueues=[self.queue])["jobQueues"]:
                return []
            pages = (clients.read("list_jobs", jobQueue=self.queue, jobStatus=state) for state in STATES)
            return [job for page in pages for job in page["jobSummaryList"]]
        finally:
            clients.close()

    @property
    def state(self) -> Path:
        return Path(json.loads((self.folder.parent / "state.json").read_text()))

    def _intents(self) -> list[Path]:
        return sorted((self.store / "runs").glob("*/submissions/*/intent.json"))

    def _cells(self, intent: Path) -> list[tuple[str, ...]]:
        step = json.loads(intent.read_text())["step"]
        return [(step, json.loads(row)[0]) for row in intent.with_name("rows.txt").read_text().splitlines()]


def settings_of(state: Path) -> Settings:
    """What the killed commands are set to, too: with other options they would replace each other's server."""
    options: dict[str, Any] = {"vcpus": 16, "memory_mb": 8192, "idle_seconds": 60, "state": str(state)}
    return load_settings({f"embedded.{name}": value for name, value in options.items()}, environ={}, folder=state)


class Numbers:
    """1, 2, 3, … for several threads, until one says that it was the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0
        self._over = False

    def __iter__(self) -> Numbers:
        return self

    def __next__(self) -> int:
        with self._lock:
            if self._over:
                raise StopIteration
            self._next += 1
            return self._next

    def end(self) -> None:
        self._over = True


def copied_pipeline(folder: Path) -> Path:
    """The file of the two-step pipeline, in a folder of its own."""
    shutil.copytree(LETTERS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "pair.py"
