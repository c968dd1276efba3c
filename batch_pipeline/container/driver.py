"""The life of a driver, idempotent: its order, the commit, the script, its log, its end.

A driver may be interrupted at any line and started again by Batch: everything it needs lies in the store since before
its job was submitted, and its end is written once, last. An attempt that finds an end has nothing to do. What the
script had begun is continued by what it runs: a pipeline adopts its own live jobs.

    runs/{run_id}/driver.json               the order: read, and checked against the digest in the job's environment
    logs/{run_id}/driver/_cohort/{n}.log    what attempt n printed, put there while it runs
    runs/{run_id}/events/…                  each attempt that began, and each that was interrupted
    runs/{run_id}/end.json                  exit code, attempts, runs that were started in it, what it left
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final

from batch_pipeline.container.checkout import command_of, put_code
from batch_pipeline.container.disk import local_error
from batch_pipeline.container.log import CellLog, log_of, say, timestamp
from batch_pipeline.container.logger import Logger, log_run, without_log_lines
from batch_pipeline.container.process_cache import ProcessCache
from batch_pipeline.container.run import Signals, spawn
from batch_pipeline.container.verdict import last_line
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import CommandExit, ContainerExit, Variable
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.errors import BatchPipelineError, ContractBroken, StoreFailed
from batch_pipeline.wire.order import SECRET_PREFIX, DriverOrder
from batch_pipeline.wire.scratch import remove_tree, scratch_root
from batch_pipeline.wire.store import NotInStore, Store, open_store

#: Stands for the step in keys of logs.
STEP: Final = "driver"
#: Seconds between two looks at the log, first and most: a log is put whole.
LOOK_SECONDS: Final = 2.0
MOST_LOOK_SECONDS: Final = 60.0
#: Objects below the output prefix that an end lists.
MOST_LISTED: Final = 1000
LOGGER: Final = Logger(__name__)
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def run_driver(environment: Mapping[str, str], cache: ProcessCache, signals: Signals) -> int:
    """Runs the driver that the environment names and returns the exit code: the script's own, or 75 when interrupted.

    Raises ContractBroken, StoreFailed, StepInterrupted when it ended before the script began.
    """
    with signals.raising(), cache.exported():
        store = _opened(environment)
        order = _order(environment, store)
        log_run(order.run_id)
        ended = _end(store, order.run_id)
    if ended is not None:
        LOGGER.info(f"Run {order.run_id} has ended already: {ended.get('problem') or 'it is done'}.")
        return int(ended.get("exit_code", int(bool(ended.get("problem")))))
    root = scratch_root(environment)
    attempt = DriverAttempt(order, store, environment, signals, cache.scratch(root))
    with log_of(attempt.scratch) as log:
        try:
            return attempt.run(log)
        finally:
            remove_tree(attempt.scratch)
            cache.release(root)


class DriverAttempt:
    """One attempt at a driver."""

    def __init__(
        self, order: DriverOrder, store: Store, environment: Mapping[str, str], signals: Signals, folder: str
    ) -> None:
        """`folder` is this process's."""
        self._order = order
        self._store = store
        self._environment = environment
        self._signals = signals
        self.number = int(environment.get(Variable.ATTEMPT) or 1)
        self.scratch = f"{folder}/driver"
        self.code = Path(self.scratch, "code")

    def run(self, log: CellLog) -> int:
        """Does all of it and returns the exit code."""
        self._tell("driver began", f"attempt {self.number}")
        try:
            with self._signals.raising():
                self._check_out()
                command, environment, folder = self._prepared()
            with LogKeeper(self._store, layout.log(self._order.run_id, STEP, layout.COHORT, self.number), log):
                code = spawn(command, environment, folder, self._signals).exit_code
        except BatchPipelineError as error:
            say(error.message)
            if not self._signals.received and not error.transient:
                self._finish(int(error.exit_code), error.message, log)
            else:
                self._tell("driver interrupted", f"attempt {self.number}: {error.message}")
            raise
        if self._signals.received:
            self._tell("driver interrupted", f"attempt {self.number}, signal {self._signals.received}")
            return ContainerExit.INTERRUPTED
        if (transient := self._order.transient_exit(code)) is not None:
            self._tell("driver interrupted", f"attempt {self.number}, exit code {code}")
            return transient
        self._finish(code, self._problem(code, log) if code else "", log)
        return code

    def _problem(self, code: int, log: CellLog) -> str:
        """What the script says at its end, which of a run is what it took."""
        is_run = self._order.bundle_sha256 and code == CommandExit.FAILED
        return "not all chosen cells are done" if is_run else last_line(without_log_lines(log.tail(1 << 13)))

    def _check_out(self) -> None:
        try:
            put_code(self._order, self.code, self._store, self._environment)
        except OSError as error:
            raise local_error(self.scratch, error) from error

    def _prepared(self) -> tuple[list[str], dict[str, str], Path]:
        """Command, environment and folder of the script. Raises ContractBroken for what cannot be run."""
        order = self._order
        folder = self.code / order.cwd
        if not folder.resolve().is_relative_to(self.code.resolve()) or not folder.is_dir():
            raise ContractBroken(f"The working directory {order.cwd!r} is no folder of the commit. Name one.")
        environment = self._script_environment()
        return command_of(order, self.code, folder, environment["PATH"]), environment, folder

    def _script_environment(self) -> dict[str, str]:
        order = self._order
        ours = {Variable.FILE_TYPE, Variable.DRIVER, Variable.DRIVER_SHA256, Variable.STORE}
        kept = {
            name: value
            for name, value in self._environment.items()
            if name not in ours and not name.startswith(SECRET_PREFIX)
        }
        config = Path(self.scratch, "config.toml")
        if order.config:
            data = self._store.get(order.config)
            if sha256_of_bytes(data) != order.config_sha256:
                raise ContractBroken("The configuration was exchanged after the run was let through. Submit again.")
            config.write_bytes(data)
        output = self._store.path_of(order.output)
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
        place = str(output) if output is not None else self._store.url_of(order.output)
        return {
            "PATH": os.defpath,
            **kept,
            **order.environment,
            **order.settings,
            "BATCH_PIPELINE__STORE__URL": place,
            Variable.RUN_ID: order.run_id,
            Variable.PARENT_RUN: order.run_id,
            Variable.USER: order.user,
            Variable.DATASET: order.dataset,
            Variable.ACCESS_LEVEL: order.access_level,
            Variable.OUTPUT_PREFIX: order.output,
            Variable.OUTPUT_URL: place,
            Variable.CONFIG_PATH: str(config),
        }

    def _tell(self, event: str, message: str) -> None:
        """Adds an event; the run goes on without it when the store is away for a moment."""
        record = {
            "format": 1,
            "at": timestamp(),
            "event": event,
            "by": self._order.user,
            "host": os.uname().nodename,
            "message": message,
            "attempt": self.number,
            "pid": os.getpid(),
            "native_id": self._environment.get(Variable.JOB_ID, ""),
        }
        try:
            self._store.put_if_absent(layout.event(self._order.run_id, _ulid()), json.dumps(record, indent=1).encode())
        except StoreFailed as error:
            say(error.message)

    def _finish(self, code: int, problem: str, log: CellLog) -> None:
        """Writes log and end, once; whichever attempt is first says how the run ended."""
        run_id = self._order.run_id
        self._store.put(layout.log(run_id, STEP, layout.COHORT, self.number), log.tail())
        end = {
            "format": 1,
            "ended_at": timestamp(),
            "done": int(not code),
            "failed": int(bool(code)),
            "problem": f"exit code {code}: {problem}".rstrip(": ") if code else "",
            "exit_code": code,
            "attempt": self.number,
            "native_id": self._environment.get(Variable.JOB_ID, ""),
            "host": os.uname().nodename,
            "children": children(self._store, self._order),
            "outputs": outputs(self._store, self._order.output) if self._order.output else {},
        }
        self._store.put_if_absent(layout.run_end(run_id), json.dumps(end, indent=1, ensure_ascii=False).encode())
        if self._order.bundle_sha256:
            self._store.delete([layout.driving(run_id)])
        self._tell("ended", f"exit code {code}")


class LogKeeper:
    """Puts the log into the store while the script runs: soon at first, then more seldom. A context."""

    def __init__(self, store: Store, key: str, log: CellLog) -> None:
        self._store = store
        self._key = key
        self._log = log
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="log of the driver", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _keep(self) -> None:
        pause, kept = LOOK_SECONDS, b""
        last = False
        while not last:
            last = self._over.wait(pause)
            pause = min(pause * 1.5, MOST_LOOK_SECONDS)
            text = self._log.tail()
            if text != kept:
                try:
                    self._store.put(self._key, text)
                    kept = text
                except BatchPipelineError as error:
                    say(error.message)


def children(store: Store, order: DriverOrder) -> list[str]:
    """Keys of the records of runs that were started in this one; they are younger, and say whose they are."""
    keys = []
    prefix = f"{order.output}/" if order.output else ""
    for run_id in sorted(store.folders(f"{prefix}{layout.RUNS}")):
        key = f"{prefix}{layout.run_record(run_id)}"
        if run_id > order.run_id and _is_child(store, key, order.run_id):
            keys.append(key)
    return keys


def _is_child(store: Store, key: str, run_id: str) -> bool:
    try:
        return bool(store.get_json(key).get("parent_run") == run_id)
    except StoreFailed:
        return False


def outputs(store: Store, prefix: str) -> dict[str, Any]:
    """What lies below the output prefix: the first thousand objects, with size and ETag."""
    listed = list(islice(store.list(prefix), MOST_LISTED + 1))
    files = {entry.key: {"size_bytes": entry.size_bytes, "etag": entry.etag} for entry in listed[:MOST_LISTED]}
    return {"complete": len(listed) <= MOST_LISTED, "files": dict(sorted(files.items()))}


def _opened(environment: Mapping[str, str]) -> Store:
    url = environment.get(Variable.STORE, "")
    if not url:
        raise ContractBroken(f"{Variable.STORE} is not set; a driver needs the URL of its store. Submit again.")
    return open_store(url)


def _order(environment: Mapping[str, str], store: Store) -> DriverOrder:
    data = store.get(environment[Variable.DRIVER])
    if sha256_of_bytes(data) != environment.get(Variable.DRIVER_SHA256):
        raise ContractBroken(
            f"{store.url_of(environment[Variable.DRIVER])} is not the order that was let through. Submit again."
        )
    try:
        return DriverOrder.from_json(json.loads(data))
    except ValueError as error:
        raise ContractBroken(f"The driver's order is no JSON ({error}). Submit again.") from error


def _end(store: Store, run_id: str) -> dict[str, Any] | None:
    try:
        return dict(store.get_json(layout.run_end(run_id)))
    except NotInStore:
        return None


def _ulid() -> str:
    """An id that sorts by time: https://github.com/ulid/spec"""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
