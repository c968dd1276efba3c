"""What listing a large store costs: real objects on another S3 server, each call answered late.

All cells of three steps are listed, then those of three samples. The delay stands for the network and S3's time.
The server, ministack, is one Python process: what its own answers take, without delay, is shown beside.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from batch_pipeline.records.listing import PAGES_AT_ONCE, CellFolders, entries_of
from batch_pipeline.wire import layout
from batch_pipeline.wire.s3 import S3Access
from batch_pipeline.wire.store import LIST_PAGE, Store, open_store
from benchmarks import table
from benchmarks.measure import BenchmarkFailed
from benchmarks.peers import Peers, cache_folder

DELAY_SECONDS = 0.1
#: Of pages x delay / parallelism.
GOAL_SHARE = 1.3
STEPS = ("one", "two", "three")
#: The calls and seconds of three samples.
GOAL_CALLS, GOAL_SECONDS = 16, 2.0
_KEYS = {"access_key_id": "test", "secret_access_key": "test", "token": None, "expires_at": None}


def main(*, objects: int, results_folder: Path) -> None:
    """Writes the objects (300,000: those of 100,000 samples), lists them late and at once, prints and keeps."""
    peers = Peers(cache_folder(), "s3", {"ministack": "1.5.33"})
    peers.install()
    if peers.missing:
        raise BenchmarkFailed(f"There is no second S3 server: {peers.missing['ministack']}")
    names = [f"sample-{number:07}" for number in range(objects // len(STEPS))]
    with tempfile.TemporaryDirectory(prefix="listing-") as folder, _server(peers, Path(folder)) as port:
        direct = _store(port)
        _fill(port, direct, names)
        with _late(port, DELAY_SECONDS) as late:
            results = {
                "all, no delay": _listed(direct, names),
                f"all, {1000 * DELAY_SECONDS:.0f} ms a call": _listed(_store(late), names),
                f"3 samples, {1000 * DELAY_SECONDS:.0f} ms a call": _listed(
                    _store(late), names[:: len(names) // 3][:3]
                ),
            }
    rows = [
        (kind, f"{one['entries']:,}", str(one["calls"]), f"{one['seconds']:.2f}", f"{one['cpu_seconds']:.2f}")
        for kind, one in results.items()
    ]
    at_once, every, few = results.values()
    pages = -(-len(names) * len(STEPS) // LIST_PAGE)
    bound = GOAL_SHARE * (pages / min(pages, PAGES_AT_ONCE) + 1) * DELAY_SECONDS
    notes = [
        table.verdict(every["calls"], pages + PAGES_AT_ONCE, f"at most {pages} pages and {PAGES_AT_ONCE} ranges"),
        table.verdict(every["seconds"] - at_once["seconds"], bound, f"{bound:.2f} s more than without delay"),
        table.verdict(few["calls"], GOAL_CALLS, f"3 samples in {GOAL_CALLS} calls"),
        table.verdict(few["seconds"], GOAL_SECONDS, f"3 samples in {GOAL_SECONDS:.0f} s"),
        f"{PAGES_AT_ONCE} calls in flight; the first page goes before; load now {table.load()}",
    ]
    header = ("listing", "entries", "calls", "s", "CPU s")
    table.show(f"listing {len(names) * len(STEPS):,} receipts on ministack", header, rows, notes=notes)
    table.keep("listing", {"machine": table.machine(peers.versions()), "results": results}, results_folder)


def _listed(store: Store, names: list[str]) -> dict[str, Any]:
    began, cpu = time.perf_counter(), time.process_time()
    places = CellFolders({layout.step_receipts(step): names for step in STEPS})
    entries = sum(1 for portion in entries_of(store, places) for _ in portion)
    if entries != len(STEPS) * len(names):
        raise BenchmarkFailed(f"{entries} entries were listed of {len(STEPS) * len(names)}.")
    return {
        "entries": entries,
        "calls": store.calls["list"],
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
    }


def _store(port: int) -> Store:
    access = S3Access(endpoint=f"http://127.0.0.1:{port}", region="us-east-1", credentials=lambda: _KEYS)
    return open_store("s3://lab/cohort", reach=lambda: access)


def _fill(port: int, store: Store, names: list[str]) -> None:
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_bucket(Bucket="lab")
    receipts = (layout.receipt(step, name, "0123456789abcdef") for step in STEPS for name in names)
    with ThreadPoolExecutor(16) as pool:
        for _ in pool.map(lambda key: store.put(key, b"x"), receipts):
            pass


@contextmanager
def _server(peers: Peers, folder: Path) -> Iterator[int]:
    """The S3 server's port, on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    environment = {**os.environ, "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [peers.program("ministack")], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        for _ in range(300):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        else:
            raise BenchmarkFailed(f"ministack does not answer: {(folder / 'log').read_text()[-500:]}")
        yield port
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _late(port: int, seconds: float) -> Iterator[int]:
    """A port that hands requests on to another one so much later. A LIST is one packet."""
    server = socket.create_server(("127.0.0.1", 0), backlog=128)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = server.accept()
                upstream = socket.create_connection(("127.0.0.1", port))
                for one in (client, upstream):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=_relay, args=(client, upstream, seconds), daemon=True).start()
                threading.Thread(target=_relay, args=(upstream, client, 0.0), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server.getsockname()[1]
    finally:
        server.close()


def _relay(source: socket.socket, target: socket.socket, seconds: float) -> None:
    with suppress(OSError), source, target:
        while data := source.recv(1 << 20):
            time.sleep(seconds)
            target.sendall(data)
