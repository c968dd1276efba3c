"""What happens before anything does: the container's side, `--help`, and a command that finds nothing to do.

A cell is run as an image's ENTRYPOINT would run it, `python -m batch_pipeline.container`, again and again, with the
manifest of a real submission; the step's first instruction writes down the time. So it does for a run on a new store
without a server, from the command's start on. Each round runs every case once, beside a bare interpreter.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import engines, table
from benchmarks.measure import Cost, cpu_seconds, run

_ROOT = Path(__file__).resolve().parent.parent
#: Rounds of the cheap cases for one of the expensive ones.
_MORE = 7
#: Milliseconds.
GOAL_CONTAINER, GOAL_HELP, GOAL_RUN = 80.0, 300.0, 350.0


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One case in one round, in milliseconds."""

    wall: float
    cpu: float


def main(*, rounds: int, results_folder: Path) -> None:
    """Measures, prints and keeps."""
    with tempfile.TemporaryDirectory(prefix="startup-", ignore_cleanup_errors=True) as name:
        cases = _cases(Path(name))
        found: dict[str, list[Timed]] = {case: [] for case in cases}
        for _ in range(rounds * _MORE):
            for case, measure in cases.items():
                found[case].append(measure())
        nothing = {samples: nothing_to_do(Path(name), samples, rounds) for samples in (1_000, 10_000)}
    bare = table.median(one.wall for one in found["python -c pass"])
    rows = [
        (
            case,
            str(len(times)),
            f"{min(one.wall for one in times):.0f}",
            f"{table.median(one.wall for one in times):.0f}",
            f"{table.median(one.cpu for one in times):.0f}",
            f"{table.median(one.wall for one in times) / bare:.1f}",
        )
        for case, times in found.items()
    ]
    notes = [
        table.verdict(_least(found["container, script step"]), GOAL_CONTAINER, "container side < 80 ms, least"),
        table.verdict(table.median(one.cpu for one in found["main.py --help"]), GOAL_HELP, "help < 300 ms, CPU"),
        table.verdict(_least(found["run, new store, no server"]), GOAL_RUN, "a run's first cell < 350 ms, least"),
        f"load now {table.load()}",
    ]
    table.show("startup", ("case", "n", "least ms", "median ms", "CPU ms", "x bare"), rows, notes=notes)
    _tell_nothing(nothing)
    values = {"machine": table.machine(), "results": found, "nothing_to_do": {str(n): c for n, c in nothing.items()}}
    table.keep("startup", values, results_folder)


def _least(times: Sequence[Timed]) -> float:
    return min(one.wall for one in times)


def _tell_nothing(found: Mapping[int, Sequence[Cost]]) -> None:
    rows = []
    notes = []
    for samples, costs in found.items():
        seconds = table.median(cost.seconds for cost in costs)
        cpu = table.median(cost.cpu_seconds for cost in costs)
        rows.append((f"{samples:,} x 3", f"{min(c.seconds for c in costs):.3f}", f"{seconds:.3f}", f"{cpu:.3f}"))
        notes.append(table.verdict(cpu, 0.3 if samples == 1_000 else 1.0, f"{samples:,} samples, CPU"))
    table.show("nothing to do: the whole command", ("samples", "least s", "median s", "CPU s"), rows, notes=notes)


def _cases(folder: Path) -> dict[str, Callable[[], Timed]]:
    cell = Cell(folder / "cell")
    python = [sys.executable]
    return {
        "python -c pass": lambda: _whole([*python, "-c", "pass"]),
        "python -c 'import obstore'": lambda: _whole([*python, "-c", "import obstore"]),
        "container, script step": lambda: cell.first_instruction("script"),
        "container, script step, new host": lambda: cell.first_instruction("script", new_host=True),
        "container, Python step": lambda: cell.first_instruction("python"),
        "main.py --help": lambda: _whole([*python, str(_ROOT / "main.py"), "--help"]),
        "main.py run --help": lambda: _whole([*python, str(_ROOT / "main.py"), "run", "--help"]),
        "run, new store, no server": lambda: cold_run(folder / "cold"),
        "pipeline of copies --help": lambda: _whole([*python, str(_ROOT / "benchmarks/copies/pipeline.py"), "--help"]),
    }


def _whole(command: Sequence[str]) -> Timed:
    """A command from its start to its end."""
    import subprocess

    before, began = cpu_seconds(), time.perf_counter()
    subprocess.run(command, env=_environment(), cwd=_ROOT, stdout=subprocess.DEVNULL, check=True)
    return Timed(wall=1000 * (time.perf_counter() - began), cpu=1000 * (cpu_seconds() - before))


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHONPATH": str(_ROOT)}


def _run_moments(folder: Path) -> None:
    """Runs the two steps that note the time, on a new store in a new folder, with a server that is ended afterwards."""
    from batch_pipeline.localbatch.client import stop

    store, state = folder / "store", folder / "state"
    (store / "SR").mkdir(parents=True)
    (store / "SR" / "a.txt").write_text("a\n")
    (folder / "samples.txt").write_text("a\n")
    command = [sys.executable, str(_ROOT / "benchmarks" / "copies" / "moments.py")]
    command += ["--sample-list-file", "samples.txt", "--store", str(store)]
    environment = {**_environment(), "BATCH_PIPELINE__EMBEDDED__STATE": str(state)}
    try:
        run(command, folder=folder, environment=environment, log=folder / "log")
    finally:
        stop(state)


def cold_run(folder: Path) -> Timed:
    """From the start of a command, without a server, to the first instruction of its first cell; CPU: of all of it."""
    before, began = cpu_seconds(), time.time()
    _run_moments(folder)
    moments = [
        float((folder / "store" / "results" / step / "a" / "moment").read_text()) for step in ("script", "python")
    ]
    shutil.rmtree(folder)
    return Timed(wall=1000 * (min(moments) - began), cpu=1000 * (cpu_seconds() - before))


class Cell:
    """A submission of two steps that note the time, and its first cells to run by hand."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = folder / "store"
        _run_moments(folder)
        self._bundle = next((self._store / "code").iterdir()).stem
        self._run_id = next((self._store / "runs").iterdir()).name

    def first_instruction(self, step: str, *, new_host: bool = False) -> Timed:
        """From the start of the container's process to the first instruction of the step."""
        import subprocess

        if new_host:
            shutil.rmtree(self._folder / "cache", ignore_errors=True)
        before, began = cpu_seconds(), time.time()
        subprocess.run(
            [sys.executable, "-m", "batch_pipeline.container"],
            env=self._variables(step),
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        moment = float((self._store / "results" / step / "a" / "moment").read_text())
        return Timed(wall=1000 * (moment - began), cpu=1000 * (cpu_seconds() - before))

    def _variables(self, step: str) -> Mapping[str, str]:
        from batch_pipeline.wire import layout
        from batch_pipeline.wire.contract import Variable

        return {
            **_environment(),
            Variable.FILE_TYPE: "zip",
            Variable.FILE_URL: f"file://{self._store}/{layout.bundle(self._bundle)}",
            Variable.FILE_SHA256: self._bundle,
            Variable.STORE: f"file://{self._store}",
            Variable.MANIFEST: layout.submission(self._run_id, f"{step}-0-0", "manifest.json"),
            Variable.RUN_ID: self._run_id,
            Variable.SCRATCH: str(self._folder / "scratch"),
            Variable.CACHE: str(self._folder / "cache"),
            Variable.JOB_ID: "by-hand",
            Variable.ATTEMPT: "1",
        }


def nothing_to_do(folder: Path, samples: int, rounds: int) -> list[Cost]:
    """The whole command on a cohort that is done: its receipts are written by hand, as a listing sees them."""
    engine = engines.Ours(folder / f"done-{samples}", samples)
    engine.prepare()
    _write_receipts(engine.folder / "store", samples)
    log = folder / f"done-{samples}.log"
    costs = []
    for _ in range(rounds):
        costs.append(run(engine.command(), folder=engine.folder, environment=engine.environment(), log=log))
    said = log.read_text()
    if said.count("Nothing to do") != rounds or engine.state.exists():
        raise RuntimeError(f"There was something to do, or a server was started: {said[-500:]}")
    return costs


def _write_receipts(folder: Path, samples: int) -> None:
    from batch_pipeline.config import load_settings
    from batch_pipeline.pipeline.samples import Sample, SampleList
    from batch_pipeline.pipeline.workflow import Graph
    from batch_pipeline.records.receipts import LEAST_BYTES
    from batch_pipeline.records.request import Request
    from batch_pipeline.run import driver
    from batch_pipeline.wire import layout
    from batch_pipeline.wire.store import open_store
    from benchmarks.copies.pipeline import Copies

    listed = SampleList(samples=tuple(Sample(name=str(n), line=n + 1) for n in range(samples)), origin="made up")
    settings: Any = load_settings(environ={})
    request = Request(
        workflow=Copies,
        graph=Graph.of(Copies),
        samples=listed,
        store=open_store(str(folder)),
        settings=settings,
        sources="SR",
    )
    plan = driver.inspect(request).plan
    for step, prints in plan.fingerprints.items():
        for name, fingerprint in zip(plan.samples, prints, strict=True):
            path = folder / layout.receipt(step, name, fingerprint)
            path.parent.mkdir(parents=True)
            path.write_bytes(b" " * LEAST_BYTES)
