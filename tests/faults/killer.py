"""Runs command lines of a pipeline in forks that kill themselves before their n-th call to the store or to Batch.

    python killer.py PIPELINE_FILE        then on stdin, one a line: {"n": 7, "folder": "…", "arguments": […]}

Each line is answered, when the fork has ended, with {"code": …, "calls": […]}. Interpreter and imports are paid once:
every fork is a process of its own, as the kernel and the driver's lock see it. `n` 0 kills nothing.

Calls are counted at the two borders through which everything passes, `Store._call` and `Clients._call`. Looking at
running jobs again and again is one call: nothing changes between two looks, and their number depends on the machine.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any


def load(file: Path) -> Any:
    """The pipeline's class; everything that a command will import is imported too."""
    import botocore.session  # noqa: F401

    import batch_pipeline.luigi_adapter.imports
    from batch_pipeline import WorkflowTask
    from batch_pipeline.backends import batch  # noqa: F401
    from batch_pipeline.cli import error_handling, progress, run  # noqa: F401
    from batch_pipeline.localbatch import client  # noqa: F401
    from batch_pipeline.run import driver  # noqa: F401

    batch_pipeline.luigi_adapter.imports.load()
    from batch_pipeline.luigi_adapter import tasks  # noqa: F401

    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, WorkflowTask) and value is not WorkflowTask
    )


class Calls:
    """Counts what passes the borders, and kills the process before the n-th."""

    def __init__(self, deadly: int, told: Path) -> None:
        self._deadly = deadly
        self._told = told.open("w", buffering=1)
        self._number = 0
        self._last = ""

    def note(self, call: str) -> None:
        if call == self._last == "describe_jobs":
            return
        self._last = call
        self._number += 1
        self._told.write(f"{call}\n")
        if self._number == self._deadly:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """Puts itself before every call."""
        from batch_pipeline.backends.aws_clients import Clients
        from batch_pipeline.wire.store import Store

        store_call, batch_call = Store._call, Clients._call

        def stored(store: Store, kind: str, key: str, count: int = 1) -> Any:
            self.note(f"{kind} {key}")
            return store_call(store, kind, key, count)

        def asked(clients: Clients, name: str, operation: str, parameters: Any) -> Any:
            self.note(operation)
            return batch_call(clients, name, operation, parameters)

        Store._call = stored  # type: ignore[method-assign,assignment]  # the border is put under watch
        Clients._call = asked  # type: ignore[method-assign,assignment]


def live(workflow: Any, n: int, arguments: list[str], folder: Path) -> None:
    """One command in this process. Never returns."""
    os.setsid()
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))
    Calls(n, folder / "calls").watch()
    from batch_pipeline.cli import run_command_line

    code = 70
    try:
        code = run_command_line(workflow, arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def main() -> None:
    """Answers until stdin ends."""
    workflow = load(Path(sys.argv[1]))
    for line in sys.stdin:
        asked = json.loads(line)
        folder = Path(asked["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        pid = os.fork()
        if not pid:
            live(workflow, asked["n"], asked["arguments"], folder)
        _, status = os.waitpid(pid, 0)
        calls = (folder / "calls").read_text().splitlines()
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "calls": calls}), flush=True)


if __name__ == "__main__":
    main()
