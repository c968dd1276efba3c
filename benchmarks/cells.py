"""Many tiny cells: samples x 3 `cp` through our pipeline, the bounds and the peers, in interleaved rounds.

A round runs every engine once, in its own fresh folder: build, again with nothing to do, again after the results of
1 % of the samples were taken away. Goals are ratios of the same round (`durable bound`), told as medians over rounds.

Nothing is removed before the last round is over: ext4 does not use an inode again within minutes of its removal, and
looks at each such inode whenever it makes another one, so one engine's cleaning up would be the next one's cost.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import engines, table
from benchmarks.engines import STEPS, Engine
from benchmarks.measure import Cost, run
from benchmarks.peers import Peers, cache_folder

_Maker = Callable[[Path, int], Engine]
_PeerMaker = Callable[[Path, int, Peers], Engine]

#: Rounds after the first are for these: the ones that goals are about.
_EVERY_ROUND = (engines.Ours.name, engines.Unsynced.name, engines.Durable.name, engines.Xargs.name)


@dataclass(frozen=True, kw_only=True)
class Result:
    """One engine in one round."""

    engine: str
    samples: int
    build: Cost
    nothing: Cost
    #: Nothing to do, with the results looked at; None: it does not know how.
    checked: Cost | None
    rerun: Cost
    #: Results that are missing or wrong after the build, and after the rerun of 1 %.
    wrong_after_build: int
    wrong_after_rerun: int
    load: str

    @property
    def cells(self) -> int:
        """Tasks of the build."""
        return self.samples * len(STEPS)


def main(*, samples: int, rounds: int, peers: bool, large: bool, results_folder: Path) -> None:
    """Runs, prints and keeps."""
    environment = Peers(cache_folder())
    if peers:
        environment.install()
    versions = dict(engines.versions(environment)) if peers else {}
    table.say(f"machine: {table.machine(versions.items())}")
    results = list(measured(samples, rounds, _makers(environment, peers)))
    report(f"cells: {samples:,} samples x 3", results)
    for package, why in environment.missing.items():
        table.say(f"  {package} is left out: it could not be installed ({why}).")
    if large:
        more = list(measured(10_000, 1, _makers(environment, False)[:2]))
        report("cells: 10,000 samples x 3", more)
        _flatness(results, more)
        results += more
    table.keep("cells", {"machine": table.machine(versions.items()), "results": results}, results_folder)


def _makers(peers: Peers, all_of_them: bool) -> list[_Maker]:
    makers: list[_Maker] = [engines.Ours, engines.Durable, engines.Xargs, engines.Unsynced]
    if all_of_them:
        makers += [engines.Make, engines.Luigi]
        installed: tuple[tuple[str, _PeerMaker], ...] = (("doit", engines.Doit), ("snakemake", engines.Snakemake))
        makers += [_with(peers, make) for name, make in installed if name not in peers.missing]
    return makers


def _with(peers: Peers, make: _PeerMaker) -> _Maker:
    return lambda folder, samples: make(folder, samples, peers)


def measured(samples: int, rounds: int, makers: Sequence[_Maker]) -> Iterator[Result]:
    """The results of all rounds; every second round goes backwards."""
    with tempfile.TemporaryDirectory(prefix="cells-", ignore_cleanup_errors=True) as name:
        for number in range(rounds):
            for place, make in enumerate(makers if number % 2 == 0 else reversed(makers)):
                engine = make(Path(name) / f"{number}-{place}" / "here", samples)
                if samples > engine.most_samples or (number and engine.name not in _EVERY_ROUND):
                    continue
                result = _one(engine)
                table.say(
                    f"  round {number + 1}  {engine.name:16} build {result.build.seconds:7.2f} s"
                    f"  cpu {result.build.cpu_seconds:7.2f} s  load {result.load}"
                )
                yield result


def _one(engine: Engine) -> Result:
    engine.prepare()
    log = engine.folder.parent / "log"
    load = table.load()
    try:
        build = _run(engine, log)
        wrong = engine.wrong()
        nothing = _run(engine, log)
        checked = _run(engine, log, engine.checking()) if engine.checking() else None
        engine.forget(range(0, engine.samples, 100))
        rerun = _run(engine, log)
        wrong_again = engine.wrong()
    finally:
        engine.stop()
    return Result(
        engine=engine.name,
        samples=engine.samples,
        build=build,
        nothing=nothing,
        checked=checked,
        rerun=rerun,
        wrong_after_build=wrong,
        wrong_after_rerun=wrong_again,
        load=load,
    )


def _run(engine: Engine, log: Path, command: Sequence[str] = ()) -> Cost:
    return run(command or engine.command(), folder=engine.folder, environment=engine.environment(), log=log)


_HEADER = (
    *("engine", "n", "build s", "tasks/s", "x bound", "CPU s", "CPU ms/task", "x bound", "MiB big/all"),
    *("nothing s", "1 % s", "wrong", "wrong after 1 %"),
)


def report(title: str, results: Sequence[Result]) -> None:
    """Prints the medians and the goals."""
    names = list(dict.fromkeys(result.engine for result in results))
    by_engine = {name: [result for result in results if result.engine == name] for name in names}
    bound = by_engine[engines.Durable.name]
    rows = [_row(name, found, bound) for name, found in by_engine.items()]
    ours = by_engine[engines.Ours.name]
    ratio = table.median(_ratios(ours, bound, lambda result: result.build.seconds))
    nothing = table.median(result.nothing.seconds for result in ours)
    most = 0.3 if ours[0].samples <= 1_000 else 1.0
    notes = [
        table.verdict(ratio, 1.5, "build <= 1.5 x the durable bound"),
        table.verdict(nothing, most, f"nothing to do <= {most} s"),
        *_costs(ours, by_engine.get(engines.Unsynced.name, [])),
        f"load now {table.load()}",
    ]
    table.show(title, _HEADER, rows, notes=notes)


def _costs(ours: Sequence[Result], unsynced: Sequence[Result]) -> Iterator[str]:
    """What trust costs: waiting for the disk, and looking at the results."""
    if unsynced:
        wall = table.median(_ratios(ours, unsynced, lambda result: result.build.seconds))
        cpu = table.median(_ratios(ours, unsynced, lambda result: result.build.cpu_seconds))
        yield f"syncing: build {wall:.2f} x in time and {cpu:.2f} x in CPU of the same without syncs"
    nothing = table.median(result.nothing.seconds for result in ours)
    checked = table.median(result.checked.seconds for result in ours if result.checked)
    yield f"checking: nothing to do {nothing:.3f} s, with --check-results {checked:.3f} s, {ours[0].cells:,} results"


def _ratios(ours: Sequence[Result], others: Sequence[Result], figure: Callable[[Result], float]) -> list[float]:
    """Ratios of pairs of the same round."""
    return [figure(one) / figure(other) for one, other in zip(ours, others, strict=False)]


def _row(name: str, found: Sequence[Result], bound: Sequence[Result]) -> Sequence[str]:
    cells = found[0].cells
    seconds = table.median(result.build.seconds for result in found)
    cpu = table.median(result.build.cpu_seconds for result in found)
    biggest = max(result.build.biggest_mib for result in found)
    together = max(result.build.together_mib for result in found)
    return (
        name,
        str(len(found)),
        f"{seconds:.2f}",
        f"{cells / seconds:,.0f}",
        f"{table.median(_ratios(found, bound, lambda result: result.build.seconds)):.2f}",
        f"{cpu:.2f}",
        f"{1000 * cpu / cells:.2f}",
        f"{table.median(_ratios(found, bound, lambda result: result.build.cpu_seconds)):.2f}",
        f"{biggest:.0f} / {together:.0f}",
        f"{table.median(result.nothing.seconds for result in found):.3f}",
        f"{table.median(result.rerun.seconds for result in found):.3f}",
        str(max(result.wrong_after_build for result in found)),
        str(max(result.wrong_after_rerun for result in found)),
    )


def _flatness(small: Sequence[Result], large: Sequence[Result]) -> None:
    for name in (engines.Ours.name, engines.Durable.name):
        before, after = (
            table.median(1000 * result.build.cpu_seconds / result.cells for result in results if result.engine == name)
            for results in (small, large)
        )
        table.say(f"  {name}: CPU ms a cell {before:.2f} -> {after:.2f}, {after / before:.2f} x (goal <= 1.1)")
