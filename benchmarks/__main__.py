"""`python -m benchmarks [NAME …]`: measures and prints tables; without a name, all that there are."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import measure
from benchmarks.table import RESULTS


def main() -> int:
    """Runs the command line and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"which to run: {', '.join(_BENCHMARKS)} (default: all)")
    parser.add_argument("--samples", type=int, default=1_000, help="samples of `cells` (default: 1000)")
    parser.add_argument(
        "--simulated", type=int, default=1_000_000, help="samples of `million` and, made up, of `listing`"
    )
    parser.add_argument("--objects", type=int, default=20_000, help="objects of `listing` (default: 20000)")
    parser.add_argument("--tasks", type=int, default=20_000, help="tasks of `pool-servers` (default: 20000)")
    parser.add_argument("--pooled", type=int, default=1_000_000, help="tasks of the large `pool` (default: 1000000)")
    parser.add_argument("--candidates", type=int, default=750_000, help="rows of `candidates` (default: 750000)")
    parser.add_argument("--transcripts", type=int, default=60_000, help="those of `large-sample` (default: 60000)")
    parser.add_argument("--pairs", type=int, default=1_000_000, help="read pairs of `large-sample` (default: 1000000)")
    parser.add_argument("--negatives", type=int, default=200, help="samples of `negatives` (default: 200)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: 3)")
    parser.add_argument("--large", action="store_true", help="`cells` with 10,000 samples too")
    parser.add_argument(
        "--no-peers", action="store_true", help="`cells`, `api`, `listing` without them; installs nothing"
    )
    parser.add_argument("--no-real", action="store_true", help="`fusion` and `negatives` on a made-up reference")
    parser.add_argument("--folder", help="where to work (default: the temporary folder); its file system matters")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="where the JSON goes (default: benchmarks/results)"
    )
    options = parser.parse_args()
    unknown = sorted(set(options.name) - set(_BENCHMARKS))
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are: {', '.join(_BENCHMARKS)}")
    if options.folder is not None and not Path(options.folder).is_dir():
        parser.error(f"--folder {options.folder} is no folder; make it first")
    tempfile.tempdir = options.folder
    measure.become_reaper()
    for name in options.name or _BENCHMARKS:
        _BENCHMARKS[name](options)
    return 0


def _cells(options: argparse.Namespace) -> None:
    from benchmarks import cells

    peers = not options.no_peers
    cells.main(
        samples=options.samples,
        rounds=options.rounds,
        peers=peers,
        large=options.large,
        results_folder=options.results,
    )


def _planning(options: argparse.Namespace) -> None:
    from benchmarks import planning

    planning.main(results_folder=options.results)


def _memory(options: argparse.Namespace) -> None:
    from benchmarks import memory

    memory.main(results_folder=options.results)


def _startup(options: argparse.Namespace) -> None:
    from benchmarks import startup

    startup.main(rounds=options.rounds, results_folder=options.results)


def _fusion(options: argparse.Namespace) -> None:
    from benchmarks import fusion

    fusion.main(rounds=options.rounds, real=not options.no_real, results_folder=options.results)


def _large_sample(options: argparse.Namespace) -> None:
    from benchmarks import large_sample

    large_sample.main(
        transcripts=options.transcripts,
        pairs=options.pairs,
        rounds=options.rounds,
        results_folder=options.results,
    )


def _negatives(options: argparse.Namespace) -> None:
    from benchmarks import negatives

    negatives.main(samples=options.negatives, real=not options.no_real, results_folder=options.results)


def _candidates(options: argparse.Namespace) -> None:
    from benchmarks import candidates

    candidates.main(rows=options.candidates, results_folder=options.results)


def _api(options: argparse.Namespace) -> None:
    from benchmarks import api

    api.main(peers=not options.no_peers, results_folder=options.results)


def _listing(options: argparse.Namespace) -> None:
    from benchmarks import listing

    listing.main(
        objects=options.objects,
        samples=options.simulated,
        rounds=options.rounds,
        peers=not options.no_peers,
        results_folder=options.results,
    )


def _calls(options: argparse.Namespace) -> None:
    from benchmarks import calls

    calls.main(results_folder=options.results)


def _million(options: argparse.Namespace) -> None:
    from benchmarks import million

    million.main(samples=options.simulated, results_folder=options.results)


def _pool_servers(options: argparse.Namespace) -> None:
    from benchmarks import pool_servers

    pool_servers.main(tasks=options.tasks, results_folder=options.results)


def _pool(options: argparse.Namespace) -> None:
    from benchmarks import pool

    pool.main(rounds=options.rounds, tasks=options.pooled, results_folder=options.results)


def _report(options: argparse.Namespace) -> None:
    from benchmarks import report

    report.main(rounds=options.rounds, results_folder=options.results)


_BENCHMARKS: Mapping[str, Callable[[argparse.Namespace], None]] = {
    "startup": _startup,
    "planning": _planning,
    "memory": _memory,
    "api": _api,
    "listing": _listing,
    "calls": _calls,
    "million": _million,
    "report": _report,
    "pool": _pool,
    "cells": _cells,
    "pool-servers": _pool_servers,
    "fusion": _fusion,
    "candidates": _candidates,
    "large-sample": _large_sample,
    "negatives": _negatives,
}


if __name__ == "__main__":
    sys.exit(main())
