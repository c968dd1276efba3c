"""The order in which names and bytes reach the disk, as the kernel was asked for it (strace): see `wire.durable`."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CALLS = "fsync,syncfs,rename,link,mkdir,sendto"
_LINE = re.compile(r"^(?:\[pid +)?(\d+)\]? +(.*)$")
_RESUMED = re.compile(r"^<\.\.\. (\w+) resumed>(.*)$")
_PATHS = re.compile(r'<([^>]*)>|"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, kw_only=True)
class Call:
    """One system call. Calls of several processes overlap: `began` and `ended` are positions in the trace."""

    name: str
    paths: tuple[str, ...]
    began: int
    ended: int


def calls_in(trace: str) -> Iterator[Call]:
    begun: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(trace.splitlines()):
        found = _LINE.match(line)
        if not found:
            continue
        pid, text = found.groups()
        resumed = _RESUMED.match(text)
        if text.endswith("<unfinished ...>"):
            begun[pid] = (number, text.removesuffix("<unfinished ...>"))
            continue
        began = number
        if resumed:
            began, head = begun.pop(pid)
            text = head + resumed[2]
        if not text.rstrip().endswith("= -1") and " = -1 " not in text:
            paths = tuple(first or second for first, second in _PATHS.findall(text))
            yield Call(name=text.partition("(")[0], paths=paths, began=began, ended=number)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Call]]:
    """A store that a traced driver, its server and their workers made, and what they asked of the kernel."""
    folder = tmp_path_factory.mktemp("durable")
    texts = REPOSITORY / "examples" / "texts"
    run = [sys.executable, str(REPOSITORY / "examples" / "words.py"), "--store", "store", "--sources", str(texts)]
    run += ["--sample-list-file", str(REPOSITORY / "examples" / "texts.txt")]
    state = folder / "state" / "batch_pipeline" / "localbatch"
    stop = [sys.executable, "-m", "batch_pipeline.localbatch", "--stop", "--state", str(state)]
    both = f"{shlex.join(run)}; code=$?; {shlex.join(stop)}; exit $code"
    command = ["strace", "-f", "-y", "-qq", "-s", "300", "-e", f"trace={CALLS}", "-o", str(folder / "trace")]
    environment = {**os.environ, "HOME": str(folder), "XDG_STATE_HOME": str(folder / "state")}
    done = subprocess.run(
        [*command, "sh", "-c", both], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return folder / "store", list(calls_in((folder / "trace").read_text()))


def named(calls: list[Call], path: Path) -> Call:
    """The call that gave a file its name, the last one."""
    return [call for call in calls if call.name in ("rename", "link") and call.paths[-1] == str(path)][-1]


def is_synced(calls: list[Call], path: str, after: int, before: int) -> bool:
    """Whether a file or folder was brought to the disk between two positions."""
    return any(
        call.name == "syncfs" or (call.name == "fsync" and call.paths[0] == path)
        for call in calls
        if call.began > after and call.ended < before
    )


@pytest.mark.engine
def test_results_are_on_the_disk_before_their_receipt_has_its_name(traced: tuple[Path, list[Call]]) -> None:
    store, calls = traced
    receipts = sorted(store.glob("receipts/*/*/*.json"))
    assert len(receipts) > 3
    for path in receipts:
        naming = named(calls, path)
        assert is_synced(calls, naming.paths[0], 0, naming.began)
        for output in json.loads(path.read_text())["outputs"]:
            result = store / output["key"]
            placed = named(calls, result)
            assert is_synced(calls, str(result), placed.ended, naming.began)
            assert is_synced(calls, str(result.parent), placed.ended, naming.began)


@pytest.mark.engine
def test_record_manifest_and_intent_are_on_the_disk_in_this_order_before_a_job_is_sent(
    traced: tuple[Path, list[Call]],
) -> None:
    store, calls = traced
    (record,) = store.glob("runs/*/run.json")
    submissions = sorted((record.parent / "submissions").iterdir())
    assert len(submissions) == 3
    for folder in submissions:
        order = [record, folder / "rows.txt", folder / "manifest.json", folder / "intent.json"]
        names = [named(calls, path) for path in order]
        for path, naming, following in zip(order, names, [*names[1:], None], strict=True):
            before = following.began if following else sent(calls, folder.name)
            assert naming.ended < before
            assert is_synced(calls, naming.paths[0], 0, naming.began)
            assert is_synced(calls, str(path.parent), naming.ended, before)


@pytest.mark.engine
def test_the_folders_of_a_run_are_on_the_disk_before_a_job_is_sent(traced: tuple[Path, list[Call]]) -> None:
    store, calls = traced
    (record,) = store.glob("runs/*/run.json")
    first = min(sent(calls, folder.name) for folder in (record.parent / "submissions").iterdir())
    for folder in (store, store / "runs", record.parent, record.parent / "submissions"):
        (made,) = [call for call in calls if call.name == "mkdir" and call.paths[-1] == str(folder)]
        assert is_synced(calls, str(folder.parent), made.ended, first)


def sent(calls: list[Call], job: str) -> int:
    """Where the request for a job was sent."""
    intents = [call.ended for call in calls if call.name == "rename" and call.paths[-1].endswith(f"/{job}/intent.json")]
    return next(
        call.began
        for call in calls
        if call.name == "sendto" and call.began > intents[-1] and any("submitjob" in path for path in call.paths)
    )
