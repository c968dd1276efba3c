"""A step that leaves processes behind in every way: `python leaver.py FOLDER END`.

Each way puts a file into the folder when it is at it, and `parent` tells who runs the step. END is an exit code;
`stay`: until it is told to end; `deaf`: until it is killed; `go`: until the folder has a file `go`. All processes have
the folder among their arguments, which no `setsid` and no cleared environment changes.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

WAYS = ("background", "session", "double", "cleared", "deaf", "chain", "many")
MANY = 50
CHAIN_SECONDS = 120.0


def main(folder: Path, end: str) -> None:
    """The step itself, or, called by itself, the process with a cleared environment."""
    if end == "cleared":
        stay(folder, end)
    for way in WAYS:
        if not os.fork():
            leave(folder, way)
    while not all((folder / way).exists() for way in WAYS):
        time.sleep(0.001)
    (folder / "parent").write_text(f"{os.getppid()}\n")
    if end == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / "there").touch()
    while end in ("stay", "deaf"):
        signal.pause()
    while end == "go" and not (folder / "go").exists():
        time.sleep(0.001)
    os._exit(int(end) if end.isdecimal() else 0)


def leave(folder: Path, way: str) -> None:
    """A child of the step; never returns."""
    if way == "deaf":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    elif way != "background":
        os.setsid()
    if way in ("double", "cleared", "chain"):
        if os.fork():
            os._exit(0)
        os.setsid()
    if way == "cleared":
        os.closerange(0, 1 << 12)
        os.execve(sys.executable, [sys.executable, "-S", __file__, str(folder), way], {})
    elif way == "chain":
        # Never the same process for long.
        (folder / way).touch()
        counter = os.open(folder / "hops", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        # It would outlive a test that was broken off, and take all of the machine's numbers of processes.
        until = time.monotonic() + CHAIN_SECONDS
        while time.monotonic() < until:
            os.write(counter, b".")
            time.sleep(0.0005)
            if os.fork():
                os._exit(0)
        os._exit(0)
    elif way == "many":
        for _ in range(MANY):
            if not os.fork():
                signal.pause()
    stay(folder, way)


def stay(folder: Path, way: str) -> None:
    """Says that it is there, and stays."""
    (folder / way).touch()
    while True:
        signal.pause()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
