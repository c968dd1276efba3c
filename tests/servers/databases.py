"""Real databases on this machine's loopback: dynalite speaks DynamoDB's API, pouchdb-server CouchDB's."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from uuid import uuid4

import pytest

from batch_pipeline.pool.stores.couchdb.store import CouchDbStore
from batch_pipeline.pool.stores.dynamodb.store import DynamoDbStore
from tests.leftovers import at_the_end, keep_until_the_end

_FOLDER = Path(__file__).parent
_BIN = _FOLDER / "node_modules" / ".bin"
#: Where it is set, tests fail that would be skipped because a server is not installed.
REQUIRED = bool(os.environ.get("SERVERS_REQUIRED"))
PATIENCE_SECONDS = 60.0
#: Tasks for sixteen processes; 20000 is the full size.
TASKS = int(os.environ.get("POOL_SERVER_TASKS", "1000"))
REGION = "eu-west-1"
#: dynalite asks for some identity and checks none.
IDENTITY = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that runs until the tests end."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def end(self) -> None:
        """Ends it."""
        self.process.terminate()
        self.process.communicate(timeout=10)


@cache
def dynalite() -> Server:
    """dynalite with its data on disk; the same one for all tests of this process."""
    return _kept("dynalite", "--createTableMs", "1", "--path")


@cache
def pouchdb() -> Server:
    """pouchdb-server with its data in memory; the same one for all tests of this process."""
    return _kept("pouchdb-server", "--in-memory", "--no-stdout-logs", "--config", "config.json", "--dir")


def dynamodb_pool(server: Server | None = None, *, table: str = "", shards: int = 8, port: int = 0) -> DynamoDbStore:
    """Opens a pool in a table of dynalite, a new one if none is named; by another port, through a proxy."""
    url = f"http://127.0.0.1:{port or (server or dynalite()).port}"
    os.environ.update(IDENTITY)
    return DynamoDbStore(table or f"pool-{uuid4().hex}", region=REGION, endpoint=url, shards=shards, create=not port)


def couchdb_pool(server: Server | None = None, *, database: str = "", port: int = 0) -> CouchDbStore:
    """Opens a pool in a database of pouchdb-server, a new one if none is named; by another port, through a proxy."""
    url = f"http://127.0.0.1:{port or (server or pouchdb()).port}"
    return CouchDbStore(url, database or f"pool-{uuid4().hex}", create=not port)


def missing() -> str:
    """Why there are no servers here; empty: there are."""
    there = shutil.which("node") and all((_BIN / program).exists() for program in ("dynalite", "pouchdb-server"))
    return "" if there else "dynalite and pouchdb-server are not installed: run scripts/install.sh databases"


def _kept(program: str, *arguments: str) -> Server:
    path = _BIN / program
    if reason := missing():
        if REQUIRED:
            pytest.fail(f"Pools are to be tested on real servers here, and {reason}")
        pytest.skip(f"NO POOL IS TESTED ON A REAL SERVER: {reason}")
    folder = tempfile.mkdtemp(prefix="servers-")
    keep_until_the_end(folder)
    at_the_end.callback(shutil.rmtree, folder, ignore_errors=True)
    server = _started([str(path), *arguments, folder], folder)
    at_the_end.callback(server.end)
    return server


def _started(command: list[str], folder: str) -> Server:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    process = subprocess.Popen(
        ["node", "--require", str(_FOLDER / "steady.cjs"), *command, "--host", "127.0.0.1", "--port", str(port)],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    ends = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert process.poll() is None, f"{command} ended with {process.returncode}"
            assert time.monotonic() < ends, f"{command} does not answer"
            time.sleep(0.05)
        else:
            return Server(port=port, process=process)
