"""What listing a large store costs: calls, seconds when each call is answered late, and CPU a cell.

Real objects lie on another S3 server, ministack. As it sorts its bucket for every page, what it says of them is handed
on by `listing_server`, late: the delay stands for the network and S3's time. All cells of three steps are listed, then
those of three samples; then receipts that are made up, of a tenth of the samples and of all.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from batch_pipeline.records.listing import PAGES_AT_ONCE, CellFolders, entries_of
from batch_pipeline.wire import layout
from batch_pipeline.wire.s3 import S3Access
from batch_pipeline.wire.store import LIST_PAGE, Store, open_store
from benchmarks import table
from benchmarks.listing_server import BUCKET, PREFIX, STEPS, sample
from benchmarks.measure import BenchmarkFailed
from benchmarks.peers import Peers, cache_folder

ROOT = Path(__file__).resolve().parent.parent
DELAY_SECONDS = 0.1
_LATE = f"{1000 * DELAY_SECONDS:.0f} ms a call"
ALL, ALL_LATE, FEW_LATE = "all", f"all, {_LATE}", f"3 samples, {_LATE}"
#: Of pages x delay / parallelism.
GOAL_SHARE = 1.3
#: The calls and seconds of three samples.
GOAL_CALLS, GOAL_SECONDS = 16, 2.0
#: CPU a cell of all samples, by that of a tenth of them.
GOAL_GROWTH = 1.1
_KEYS = {"access_key_id": "test", "secret_access_key": "test", "token": None, "expires_at": None}
#: Run by ministack's Python: puts objects by ministack's own function, then serves them.
_FILLED = """
import sys
from ministack import app
from ministack.services import s3
bucket = sys.argv.pop(1)
s3._create_bucket(bucket, b"", {})
for key in sys.stdin.read().split():
    s3._put_object(bucket, key, b"x", {})
app.main()
"""


def main(*, objects: int, samples: int, rounds: int, peers: bool, results_folder: Path) -> None:
    """Lists so many objects, real ones with `peers`, and the made-up receipts of so many samples; prints and keeps."""
    s3 = Peers(cache_folder(), "s3", {"ministack": "1.5.33"} if peers else {})
    if peers:
        s3.install()
    if s3.missing:
        raise BenchmarkFailed(f"There is no second S3 server: {s3.missing['ministack']}")
    names = [sample(number) for number in range(objects // len(STEPS))]
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="listing-") as folder, ExitStack() as servers:
        source = ["--made-up", str(len(names))]
        if peers:
            port = servers.enter_context(_ministack(s3, Path(folder), names))
            results["all, by ministack itself"] = _listed(port, names)
            source = ["--copy", str(port)]
        prompt = servers.enter_context(_served(0.0, *source))
        late = servers.enter_context(_served(DELAY_SECONDS, *source))
        few = names[:: len(names) // 3][:3]
        listings = ((ALL, prompt, names), (ALL_LATE, late, names), (FEW_LATE, late, few))
        measured = [{kind: _listed(port, chosen) for kind, port, chosen in listings} for _ in range(rounds)]
    for kind, _, _ in listings:
        results[kind] = min((one[kind] for one in measured), key=lambda one: one["seconds"])
    for number in (samples // 10, samples):
        with _served(0.0, "--made-up", str(number)) as port:
            results[f"{number:,} samples, made up"] = _listed(port, [sample(each) for each in range(number)])
    rows = [
        (
            kind,
            f"{one['entries']:,}",
            str(one["calls"]),
            f"{one['seconds']:.2f}",
            f"{one['cpu_seconds']:.2f}",
            f"{1e6 * one['cpu_seconds'] / one['entries']:.1f}",
        )
        for kind, one in results.items()
    ]
    header = ("listing", "entries", "calls", "s", "CPU s", "CPU us/cell")
    table.show(f"listing, the best of {rounds} interleaved rounds", header, rows, notes=_notes(results))
    table.keep("listing", {"machine": table.machine(s3.versions()), "results": results}, results_folder)


def _notes(results: dict[str, dict[str, Any]]) -> list[str]:
    prompt, every, few = (results[kind] for kind in (ALL, ALL_LATE, FEW_LATE))
    *_, tenth, whole = results.values()
    pages = -(-every["entries"] // LIST_PAGE)
    bound = GOAL_SHARE * max(1, pages / PAGES_AT_ONCE) * DELAY_SECONDS
    growth = whole["cpu_seconds"] / whole["entries"] / (tenth["cpu_seconds"] / tenth["entries"])
    most = max(one["calls"] for one in results.values() if one["entries"] == every["entries"])
    return [
        table.verdict(most, pages + PAGES_AT_ONCE, f"a call for each of {pages} pages and {PAGES_AT_ONCE} ranges"),
        table.verdict(every["seconds"], bound, f"{bound:.2f} s, {GOAL_SHARE} x pages x delay / parallelism"),
        table.verdict(every["seconds"] - prompt["seconds"], bound, "the same, beyond what it takes without delay"),
        table.verdict(few["calls"], GOAL_CALLS, f"3 samples in {GOAL_CALLS} calls"),
        table.verdict(few["seconds"], GOAL_SECONDS, f"3 samples in {GOAL_SECONDS:.0f} s"),
        table.verdict(growth, GOAL_GROWTH, f"CPU a cell at most {GOAL_GROWTH} x that of a tenth of the samples"),
        f"{PAGES_AT_ONCE} calls in flight; load now {table.load()}",
    ]


def _listed(port: int, names: list[str]) -> dict[str, Any]:
    access = S3Access(endpoint=f"http://127.0.0.1:{port}", region="us-east-1", credentials=lambda: _KEYS)
    store = open_store(f"s3://{BUCKET}/{PREFIX}", reach=lambda: access)
    began, cpu = time.perf_counter(), time.process_time()
    entries = _entries(store, names)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    if entries != len(STEPS) * len(names):
        raise BenchmarkFailed(f"{entries} entries were listed of {len(STEPS) * len(names)}.")
    return {"entries": entries, "calls": store.calls["list"], "seconds": seconds, "cpu_seconds": cpu_seconds}


def _entries(store: Store, names: list[str]) -> int:
    places = CellFolders({layout.step_receipts(step): names for step in STEPS})
    return sum(1 for portion in entries_of(store, places) for _ in portion)


@contextmanager
def _served(seconds: float, *options: str) -> Iterator[int]:
    """The port of a listing server."""
    command = [sys.executable, "-m", "benchmarks.listing_server", str(seconds), *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()


@contextmanager
def _ministack(peers: Peers, folder: Path, names: list[str]) -> Iterator[int]:
    """The port of the S3 server, on loopback, with a receipt of each step of each sample."""
    keys = folder / "keys"
    with keys.open("w") as file:
        for step in STEPS:
            file.writelines(f"{PREFIX}{layout.receipt(step, name, '0123456789abcdef')}\n" for name in names)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    environment = {**os.environ, "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port)}
    with (folder / "log").open("wb") as log, keys.open() as file:
        process = subprocess.Popen(
            [peers.program("python"), "-c", _FILLED, BUCKET],
            cwd=folder,
            env=environment,
            stdin=file,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        while process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        else:
            raise BenchmarkFailed(f"ministack does not answer: {(folder / 'log').read_text()[-500:]}")
        yield port
    finally:
        process.terminate()
        process.wait()
