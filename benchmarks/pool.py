"""What a pool costs: claims and settlements beside the bare store's, pilots beside a bare loop, a million tasks.

All of it on this machine, the ways to do a thing one after another in each round, so that a slow moment meets all. A
run of the pool is checked: a task that was settled twice, or not at all, ends the benchmark.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from batch_pipeline.pool.base import Settlement, WriteResult
from batch_pipeline.pool.files.exchange import ExportFormat, Format, Reading, export_file, import_file
from batch_pipeline.pool.overview import overview
from batch_pipeline.pool.pilots.pilot import Pilot
from batch_pipeline.pool.pilots.pilot_config import PilotConfig
from batch_pipeline.pool.stores.sqlite.store import SqliteStore
from batch_pipeline.pool.task import TaskOutcome, TaskState
from batch_pipeline.wire.contract import EndReason
from benchmarks import pool_peers as peers
from benchmarks import table
from benchmarks.measure import BenchmarkFailed, run

PROCESSES = (1, 2, 4, 8)
MILLION = 1_000_000
#: Goals: tasks a second with claims of 1 and of 10, the p99 of a claim at 8 processes.
GOAL_RATES = {1: 5_000, 10: 40_000}
GOAL_CLAIM_MS = 10.0
#: Goals: pilots beside the bare loop, and how far a pilot's share may be from an equal one.
GOAL_PILOTS = {1: 0.85, 10: 0.95}
GOAL_SHARE = 0.10
_PILOTS = 2
_COMMANDS = 2_000
_HARASSED = 20_000
_FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to drain a table of tasks."""

    name: str
    fill: Callable[[Path, int], None]
    drain: peers.Drain
    tasks: int
    processes: Sequence[int] = PROCESSES
    #: Whether each task must be settled once; the locks of PiCaS and PyAnamo do not promise it.
    once: bool = True


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a run of a way came to."""

    rate: float
    p99_ms: float
    #: The greatest part that one process had of all tasks, beside an equal one: 1 is equal.
    share: float
    #: Tasks that were settled by two processes.
    twice: float


WAYS = (
    Way(name="bare store, claims of 1", fill=peers.fill_bare, drain=peers.drain_bare(1), tasks=6_000),
    Way(name="pool, claims of 1", fill=peers.fill_pool, drain=peers.drain_pool(1), tasks=6_000),
    Way(name="bare store, claims of 10", fill=peers.fill_bare, drain=peers.drain_bare(10), tasks=40_000),
    Way(name="pool, claims of 10", fill=peers.fill_pool, drain=peers.drain_pool(10), tasks=40_000),
    Way(name="PiCaS's loop", fill=peers.fill_bare, drain=peers.drain_like_picas, tasks=3_000, once=False),
    Way(
        name="PyAnamo's loop without its pauses",
        fill=peers.fill_bare,
        drain=peers.drain_like_pyanamo(pauses=False),
        tasks=3_000,
        once=False,
    ),
    Way(
        name="PyAnamo's loop",
        fill=peers.fill_bare,
        drain=peers.drain_like_pyanamo(pauses=True),
        tasks=8,
        processes=(4,),
        once=False,
    ),
)


def main(*, rounds: int, tasks: int, results_folder: Path) -> None:
    """Measures, prints and keeps."""
    with tempfile.TemporaryDirectory(prefix="pool-") as name:
        folder = Path(name)
        claims = claims_of(folder, rounds)
        pilots = pilots_of(folder, rounds)
        harassed = harassed_in(folder)
    _show_claims(claims)
    _show_pilots(pilots)
    rows = [(name, f"{value:,.1f}") for name, value in harassed.items()]
    table.show(f"pool: {_HARASSED:,} tasks, 16 processes, killed at random", ("what", "figure"), rows)
    big = large_alone(tasks)
    _show_large(big, tasks)
    kept = {way: {str(count): vars(one) for count, one in by_count.items()} for way, by_count in claims.items()}
    figures = {"claims": kept, "pilots": pilots, "harassed": harassed, "large": {str(tasks): big}}
    table.keep("pool", {"machine": table.machine(), **figures}, results_folder)


# Claims.


def claims_of(folder: Path, rounds: int) -> dict[str, dict[int, Measured]]:
    """Way -> processes -> the medians of the rounds."""
    found: dict[tuple[str, int], list[Measured]] = {}
    for number in range(rounds):
        for way in WAYS:
            # A loop that sleeps is as slow in every round.
            for count in way.processes if number == 0 or len(way.processes) > 1 else ():
                found.setdefault((way.name, count), []).append(drained(folder, way, count))
    medians: dict[str, dict[int, Measured]] = {}
    for (name, count), runs in found.items():
        values = {key: statistics.median(vars(one)[key] for one in runs) for key in vars(runs[0])}
        medians.setdefault(name, {})[count] = Measured(**values)
    return medians


def drained(folder: Path, way: Way, processes: int) -> Measured:
    """Fills a table and has processes drain it."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path = Path(name) / "pool.sqlite"
        way.fill(path, way.tasks)
        told = together([lambda ready: way.drain(path, ready)] * processes)
    done = [one for one, _ in told.answers]
    if way.once and sum(done) != way.tasks:
        raise BenchmarkFailed(f"{way.name}: {sum(done)} tasks were settled of {way.tasks}.")
    claims = sorted(seconds for _, some in told.answers for seconds in some)
    p99 = claims[int(len(claims) * 0.99)] if claims else 0.0
    share = max(done) * processes / sum(done)
    twice = sum(done) - way.tasks
    return Measured(rate=way.tasks / told.seconds, p99_ms=1000 * p99, share=share, twice=twice)


@dataclass(frozen=True, kw_only=True)
class Together:
    """What processes said that began together, and the seconds from the first start to the last end."""

    answers: list[Any]
    seconds: float


def together(works: Sequence[Callable[[peers.Ready], Any]]) -> Together:
    """Runs each work in a process of its own, from the moment when all have said that they are ready."""
    barrier = _FORK.Barrier(len(works) + 1)
    pipes = [_FORK.Pipe(duplex=False) for _ in works]

    def live(number: int) -> None:
        began: list[float] = []

        def ready(*args: Any) -> None:
            barrier.wait(*args)
            began.append(time.perf_counter())

        answer = works[number](ready)
        pipes[number][1].send((answer, began[0], time.perf_counter()))

    children = [_FORK.Process(target=live, args=(number,)) for number in range(len(works))]
    try:
        for child in children:
            child.start()
        barrier.wait(60)
        answers = []
        begun, ended = list[float](), list[float]()
        for (receiving, sending), child in zip(pipes, children, strict=True):
            sending.close()
            wait([receiving, child.sentinel])
            try:
                answer, *times = receiving.recv() if receiving.poll() else _nothing()
            except EOFError as error:
                child.join()
                said = f"A process of a benchmark ended with {child.exitcode} and said nothing."
                raise BenchmarkFailed(said) from error
            answers.append(answer)
            begun.append(times[0])
            ended.append(times[1])
            child.join()
    finally:
        for child in children:
            child.kill()
            child.join()
    # `perf_counter` is one clock for all processes of a Linux host.
    return Together(answers=answers, seconds=max(ended) - min(begun))


def _nothing() -> tuple[Any, float, float]:
    raise EOFError


def _show_claims(claims: Mapping[str, Mapping[int, Measured]]) -> None:
    rows = []
    for name, by_count in claims.items():
        rates = [_rate(by_count[count].rate) if count in by_count else "" for count in PROCESSES]
        last = by_count[max(by_count)]
        twice = max(one.twice for one in by_count.values())
        rows.append((name, *rates, f"{last.p99_ms:,.1f}", f"{last.share:.2f}", f"{twice:,.0f}"))
    header = ("tasks a second, by processes", *map(str, PROCESSES), "p99 claim ms", "largest share", "settled twice")
    notes = []
    for count, goal in GOAL_RATES.items():
        slowest = min(one.rate for one in claims[f"pool, claims of {count}"].values())
        notes.append(_least(slowest, goal, f"claims of {count}: at least {goal:,} a second at 1 to 8 processes"))
        worst = claims[f"pool, claims of {count}"][8].p99_ms
        notes.append(table.verdict(worst, GOAL_CLAIM_MS, f"claims of {count}: p99 within {GOAL_CLAIM_MS:.0f} ms at 8"))
    notes.append(f"p99 and share are those of the most processes, an equal share is 1; load now {table.load()}")
    table.show("pool: claim and settle tasks that do nothing, on SQLite", header, rows, notes=notes)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def _least(value: float, least: float, text: str) -> str:
    return f"goal {text}: {'reached' if value >= least else 'MISSED'} ({value:,.2f})"


# Pilots.


def pilots_of(folder: Path, rounds: int) -> dict[str, Any]:
    """Two pilots with commands that end at once, beside two bare loops that start as many, in pairs."""
    ratios: dict[int, list[float]] = {ahead: [] for ahead in GOAL_PILOTS}
    rates: dict[str, list[float]] = {}
    shares: list[float] = []
    for _ in range(rounds):
        for ahead, found in ratios.items():
            bare = together([_spawn_loop] * _PILOTS)
            bare_rate = _COMMANDS / bare.seconds
            rate, share = _piloted(folder, ahead)
            found.append(rate / bare_rate)
            shares.append(share)
            rates.setdefault("bare loops", []).append(bare_rate)
            rates.setdefault(f"pilots, {ahead} ahead", []).append(rate)
    return {
        "rates": {name: statistics.median(values) for name, values in rates.items()},
        "ratios": {str(ahead): statistics.median(values) for ahead, values in ratios.items()},
        "share": statistics.median(shares),
    }


def _spawn_loop(ready: peers.Ready) -> None:
    program = "/bin/true"
    ready()
    for _ in range(_COMMANDS // _PILOTS):
        os.waitpid(os.posix_spawn(program, [program], os.environ), 0)


def _piloted(folder: Path, ahead: int) -> tuple[float, float]:
    """Commands a second, and how far the busiest pilot was from an equal share."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path = Path(name) / "pool.sqlite"
        peers.fill_pool(path, _COMMANDS)

        def work(ready: peers.Ready) -> int:
            store = SqliteStore(path)
            config = PilotConfig(owner=f"pilot-{os.getpid()}", most_ahead=ahead, scratch=name)
            pilot = Pilot(store, config)
            ready()
            return pilot.run().stats.done

        told = together([work] * _PILOTS)
    done = told.answers
    if sum(done) != _COMMANDS:
        raise BenchmarkFailed(f"Pilots settled {sum(done)} of {_COMMANDS} tasks.")
    return _COMMANDS / told.seconds, max(done) * _PILOTS / _COMMANDS - 1


def _show_pilots(pilots: Mapping[str, Any]) -> None:
    rows = [(name, f"{rate:,.0f}") for name, rate in pilots["rates"].items()]
    notes = [
        _least(pilots["ratios"][str(ahead)], goal, f"claims of {ahead}: at least {goal} of the bare loops, in pairs")
        for ahead, goal in GOAL_PILOTS.items()
    ]
    notes.append(table.verdict(pilots["share"], GOAL_SHARE, f"{_PILOTS} busy pilots within {GOAL_SHARE:.0%} of half"))
    title = f"pool: {_PILOTS} pilots, {_COMMANDS:,} commands `true`"
    table.show(title, ("commands a second", "rate"), rows, notes=notes)


# Killed processes.


def harassed_in(folder: Path) -> dict[str, float]:
    """Drains a pool with processes that are killed, stopped and have wrong clocks; all is checked at the end."""
    from tests.pool.swarm import Swarm

    path = folder / "harassed.sqlite"
    swarm = Swarm(opened=lambda: SqliteStore(path), folder=folder, size=16, lease_ms=500, skew_ms=1000)
    swarm.fill(_HARASSED)
    began = time.perf_counter()
    swarm.run(seconds_between=0.1, most_kills=_HARASSED // 100)
    seconds = time.perf_counter() - began
    swarm.check(_HARASSED)
    refused = sum(number for (_, answer), number in swarm.answers().items() if answer is WriteResult.REFUSED)
    return {"seconds": seconds, "killed": swarm.killed, "late writes refused": refused, "lost, or settled twice": 0}


# A large pool.


def large_alone(tasks: int) -> dict[str, float]:
    """The figures of one large pool, from a process of its own, whose memory they tell too."""
    root = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory(prefix="pool-") as folder:
        log = Path(folder) / "log"
        environment = {**os.environ, "PYTHONPATH": str(root), "TMPDIR": folder}
        run([sys.executable, "-m", "benchmarks.pool", str(tasks)], folder=root, environment=environment, log=log)
        try:
            figures: dict[str, float] = json.loads(log.read_text().splitlines()[-1])
        except (ValueError, IndexError) as error:
            raise BenchmarkFailed(f"A pool of {tasks} tasks said: {log.read_text()[-500:]}") from error
    return figures


def large(folder: Path, tasks: int) -> dict[str, float]:
    """Imports PyAnamo's format, imports it again, claims, settles, looks and exports."""
    source = folder / "tasks.txt"
    with source.open("w") as file:
        file.write("itemID|TaskID|TaskScript\n")
        parts = ((f"S{number // 22}", f"chr{number % 22 + 1}") for number in range(tasks))
        file.writelines(f"{sample}_{part}|{sample}|bash caller.sh {sample} {part}\n" for sample, part in parts)
    found: dict[str, float] = {}
    pool = SqliteStore(folder / "pool.sqlite")
    reading = Reading(format=Format.PYANAMO)

    def timed(name: str, act: Callable[[], Any]) -> Any:
        began, cpu = time.perf_counter(), time.process_time()
        answer = act()
        found[name], found[f"{name}, of CPU"] = time.perf_counter() - began, time.process_time() - cpu
        return answer

    if timed("import", lambda: import_file(pool, source, reading, now_ms=1)).report.added != tasks:
        raise BenchmarkFailed("Not all tasks were added.")
    timed("import again", lambda: import_file(pool, source, reading, now_ms=2))
    for count in (1, 10):
        waits = []
        for _ in range(500):
            began = time.perf_counter()
            claims = pool.claim("pilot", count, lease_ms=60_000, now_ms=3)
            waits.append(time.perf_counter() - began)
            outcome = TaskOutcome(end_reason=EndReason.FINISHED, exit_code=0)
            pool.settle([Settlement(claim=claim, outcome=outcome) for claim in claims], now_ms=4)
        found[f"claim of {count}, median"] = statistics.median(waits)
        found[f"claim of {count}, p99"] = sorted(waits)[int(len(waits) * 0.99)]
    counts = timed("counts", pool.counts)
    if counts.of(TaskState.DONE) != 5_500 or counts.total != tasks:
        raise BenchmarkFailed(f"The counts are wrong: {counts}.")
    timed("status", lambda: overview(pool, now_ms=5, job_states=lambda ids: {}))
    timed("export", lambda: export_file(pool, folder / "out.csv", ExportFormat.CSV))
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    found["MiB"] = int(fields["VmHWM"].split()[0]) / 1024
    found["bytes a task"] = sum(file.stat().st_size for file in folder.glob("pool.sqlite*")) / tasks
    pool.close()
    return found


def _show_large(found: Mapping[str, float], tasks: int) -> None:
    units = {"MiB": "peak MiB of the process", "bytes a task": "bytes a task in the file"}
    rows = []
    for name, value in found.items():
        if name in units:
            rows.append((units[name], f"{value:,.0f}"))
        elif "claim" in name:
            rows.append((f"{name}, ms", f"{1000 * value:.2f}"))
        else:
            rows.append((f"{name}, s", f"{value:.2f}"))
    table.show(f"pool: {tasks:,} tasks in SQLite", ("what", "figure"), rows, notes=[f"load now {table.load()}"])


def _main(arguments: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(large(Path(folder), int(arguments[0]))))


if __name__ == "__main__":
    _main(sys.argv[1:])
