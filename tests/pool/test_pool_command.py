"""The verbs of the pool, on SQLite as a person uses them. The defects of PyAnamo's and PiCaS's tools, by name."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from batch_pipeline.backends.base import JobState
from batch_pipeline.pool.cli.call import STATES, Duration, in_words
from batch_pipeline.pool.cli.group import POOL_VERBS
from batch_pipeline.pool.cli.tasks import EXPORTS, FORMATS
from batch_pipeline.pool.files.exchange import ExportFormat, Format
from batch_pipeline.pool.stores.sqlite.store import SqliteStore
from batch_pipeline.pool.task import TaskState
from batch_pipeline.wire.contract import CommandExit
from tests.cli.letters import Run, Told
from tests.servers import databases

PYANAMO = """\
itemID|TaskID|TaskScript|TaskArgs
Single_1|1kg|echo one|
Nested_1|1kg|bash -c "echo chromosome $0"|1,2,3
"""


class Pool:
    """A person at a prompt, with a pool in the working directory."""

    def __init__(self, run: Run, folder: Path) -> None:
        self._run = run
        self.folder = folder

    def __call__(self, *args: str) -> Told:
        return self._run("pool", *args, workflow=None)

    def json(self, *args: str) -> Any:
        return json.loads(self(*args, "--json").out)

    @cached_property
    def store(self) -> SqliteStore:
        return SqliteStore(self.folder / "store" / "default" / "pool" / "pool.sqlite")

    def states(self) -> dict[str, str]:
        return {task["spec"]["id"]: task["state"] for task in self.json("show")["tasks"]}

    def hold(self, *, lease_ms: int = 600_000) -> str:
        """Somebody holds a task."""
        [claim] = self.store.claim("somebody", 1, lease_ms=lease_ms, now_ms=now_ms(), native_id="12_3")
        return claim.id


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture
def pool(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    monkeypatch.chdir(tmp_path)
    pool = Pool(run, tmp_path)
    yield pool
    if "store" in vars(pool):
        pool.store.close()


def test_the_words_of_the_options_are_those_of_the_pool() -> None:
    assert tuple(state.value for state in TaskState) == STATES
    assert tuple(one.value for one in Format) == FORMATS
    assert tuple(one.value for one in ExportFormat) == EXPORTS


# Into the pool.


def test_a_pool_is_made_once(pool: Pool) -> None:
    """PiCaS's `init` fell over a folder that was not there."""
    first, again = pool("init"), pool("init")
    assert first.out == f"The pool is sqlite://{pool.folder}/store/default/pool/pool.sqlite; it has 0 tasks.\n"
    assert (first.code, again.out) == (CommandExit.DONE, first.out)
    assert pool("init", "--pool", "sqlite:deep/in/here.sqlite").code == CommandExit.DONE
    assert (pool.folder / "deep/in/here.sqlite").is_file()


def test_a_pool_that_is_not_there_is_no_empty_pool(pool: Pool) -> None:
    told = pool("status")
    assert told.code == CommandExit.UNREACHABLE
    assert "There is no pool in" in told.err
    assert "pool init" in told.err
    assert not (pool.folder / "store").exists()


@pytest.mark.parametrize("url", ["nowhere://x", "dynamodb://", "sqlite://"])
def test_what_is_no_pool_is_refused(pool: Pool, url: str) -> None:
    told = pool("init", "--pool", url)
    assert told.code == CommandExit.USAGE
    assert "names no" in told.err


def test_an_import_is_idempotent(pool: Pool) -> None:
    """A second import by PyAnamo set what was locked or done back to be done."""
    (pool.folder / "items.txt").write_text(PYANAMO)
    assert pool("import", "items.txt").out.startswith("4 tasks added to sqlite://")
    held = pool.hold()
    pool("work", "--tasks", "1")
    before = pool.states()
    assert sorted(before.values()) == ["done", "held", "todo", "todo"]
    told = pool("import", "items.txt")
    assert told.out.startswith("0 tasks added")
    assert told.err == "There already, and left alone: 4 tasks.\n"
    assert pool.states() == before
    assert before[held] == "held"


def test_an_import_reads_from_a_pipe(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"id": "a", "command": ["true"]}\n')))
    assert pool("import", "-", "--format", "jsonl").out.startswith("1 task added")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"what is this\n")))
    told = pool("import", "-")
    assert told.code == CommandExit.USAGE
    assert "--format" in told.err


def test_an_import_that_asks_for_something_else_is_told(pool: Pool) -> None:
    pool("add", "a", "--", "true")
    (pool.folder / "t.csv").write_text("id,shell\na,false\nb,true\n")
    told = pool("import", "t.csv")
    assert (told.code, told.out[:13]) == (CommandExit.CONFLICT, "1 task added ")
    assert "There with something else asked of them, and left alone: a." in told.err
    assert pool.store.get("a").spec.command == ("true",)  # type: ignore[union-attr]


def test_all_bad_rows_are_told_at_once_and_nothing_is_added(pool: Pool) -> None:
    pool("init")
    (pool.folder / "t.csv").write_text("id,shell,priority\na,true,1\n,true,\nb,true,high\n")
    told = pool("import", "t.csv")
    assert told.code == CommandExit.USAGE
    assert re.findall(r"line (\d+):", told.err) == ["3", "4"]
    assert pool.json("status")["total"] == 0


def test_a_dry_run_adds_nothing(pool: Pool) -> None:
    (pool.folder / "items.txt").write_text(PYANAMO)
    assert pool("import", "items.txt", "--dry-run").out == "4 tasks read, all well; none added.\n"
    assert pool("add", "a", "--dry-run", "--", "true").out == "1 task read, all well; none added.\n"
    assert not (pool.folder / "store").exists()


def test_a_file_that_is_not_there_is_told(pool: Pool) -> None:
    told = pool("import", "nowhere.csv")
    assert (told.code, told.err) == (
        CommandExit.USAGE,
        "Error: nowhere.csv cannot be read: No such file or directory.\n",
    )


def test_one_task_with_all_that_can_be_asked(pool: Pool) -> None:
    (pool.folder / "store/default").mkdir(parents=True)
    (pool.folder / "store/default/in.txt").write_text("words\n")
    pool("add", "first", "--", "echo", "a b", "--not-ours")
    told = pool(
        *("add", "second", "--shell", 'tr a-z A-Z <$INPUT_TEXT >$OUTPUT_BIG; echo "$X"', "--class", "small"),
        *("--priority", "5", "--attempts", "3", "--time-limit", "2m", "--env", "X=y=z", "--after", "first"),
        *("--input", "text=in.txt", "--output", "big=out.txt"),
    )
    assert told.code == CommandExit.DONE
    spec = pool.store.get("second").spec  # type: ignore[union-attr]
    assert (spec.resource_class, spec.priority, spec.most_attempts, spec.time_limit_seconds) == ("small", 5, 3, 120.0)
    assert pool("work").code == CommandExit.DONE
    assert (pool.folder / "store/default/out.txt").read_text() == "WORDS\n"
    assert "y=z\n" in pool("show", "second", "--log").out
    assert "a b --not-ours\n" in pool("show", "first", "--log").out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("a",), "needs either a command"),
        (("a", "--shell", "true", "--", "true"), "needs either a command"),
        (("../a", "--", "true"), "breaks the rule for ids"),
        (("a", "--after", "a", "--", "true"), "waits for itself"),
        (("a", "--env", "X", "--", "true"), "NAME=VALUE"),
        (("a", "--time-limit", "soon", "--", "true"), "is no time"),
    ],
)
def test_a_task_that_cannot_be_is_refused(pool: Pool, args: tuple[str, ...], said: str) -> None:
    told = pool("add", *args)
    assert told.code == CommandExit.USAGE
    assert said in told.err


def test_a_password_is_never_shown(pool: Pool) -> None:
    """PiCaS's dump of its configuration said that it left secrets out, and printed the password."""
    for scheme in ("couchdb", "couchdbs", "nowhere"):
        told = pool("status", "--pool", f"{scheme}://ada:secret@127.0.0.1:9/tasks")
        assert told.code in (CommandExit.USAGE, CommandExit.UNREACHABLE)
        assert "secret" not in told.out + told.err


# Looking.


def test_status_counts_every_state(pool: Pool) -> None:
    """PyAnamo's monitor counted four of five items, and fell over a locked item without sub-tasks."""
    for name, command in (("good", "true"), ("bad", "false")):
        pool("add", name, "--", command)
    pool("work")
    pool("add", "vain", "--after", "bad", "--", "true")
    for number in range(8):
        pool("add", f"i/{number}", "--parent", "i", "--class", "nested", "--", "true")
    pool("work", "--class", "nested", "--tasks", "3")
    pool("add", "single", "--priority", "9", "--", "true")
    assert pool.hold() == "single"
    pool("add", "gone", "--", "true")
    pool("cancel", "gone", "--yes")
    told = pool("status")
    assert told.code == CommandExit.FAILED
    lines = told.out.splitlines()
    assert lines[0] == "4 of 13 tasks done (31%), 6 left."
    assert lines[1].split() == ["class", *STATES]
    assert [line.split() for line in lines[2:5]] == [
        ["default", "1", "0", "1", "1", "1", "1"],
        ["nested", "0", "5", "0", "3", "0", "0"],
        ["all", "1", "5", "1", "4", "1", "1"],
    ]
    assert "26-50 %      1  i" in told.out
    assert "vain waits in vain: bad failed" in told.out
    assert re.search(r"^somebody +1 +0 s ago +12_3 +single$", told.out, re.MULTILINE)
    record = pool.json("status")
    assert sum(record["states"].values()) == record["total"] == 13
    assert record["progress"] == {"26-50 %": 1}
    assert (record["left"], record["waiting_in_vain"]) == (6, 1)
    assert [(one["owner"], one["native_id"], one["late"]) for one in record["pilots"]] == [("somebody", "12_3", False)]


def test_status_tells_what_waits_for_nothing(pool: Pool) -> None:
    for name, after in (("a", ()), ("b", ("--after", "a"))):
        pool("add", name, *after, "--", "true")
    pool("work", "--tasks", "1")
    with closing(sqlite3.connect(pool.store.name)) as file, file:
        file.execute("UPDATE task SET state = 0 WHERE id = 'b'")
    assert "1 task waiting although all that it needs is done: b.\n" in pool("status").out
    assert pool.json("status")["waiting_for_nothing"] == 1
    assert "freed 1 that waited for nothing" in pool("reap").out
    assert pool.json("status")["waiting_for_nothing"] == 0


def test_status_tells_pace_and_time_left(pool: Pool) -> None:
    for number in range(40):
        pool("add", f"t{number}", "--", "true")
    pool("work", "--tasks", "30")
    record = pool.json("status")
    assert record["rate_per_second"] == 0.5
    assert record["seconds_left"] == 20.0
    assert "30 tasks a minute; about 20 s left." in pool("status").out


def test_watching_ends_when_nothing_moves(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    pool("add", "a", "--", "true")
    pool("add", "b", "--after", "c", "--", "true")
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        pool("work")

    monkeypatch.setattr("batch_pipeline.pool.cli.status.pause", nap)
    told = pool("status", "--watch")
    assert len(naps) == 1
    assert "1 of 2 tasks done (50%), 0 left." in told.out


def test_where_a_pilot_runs_is_told_as_what_it_is(pool: Pool) -> None:
    """PyAnamo mapped locks to the states of jobs, and mangled ids without an index."""
    for number, native_id in enumerate((f"{socket.gethostname()}/{os.getpid()}", f"{socket.gethostname()}/4194303")):
        pool("add", f"t{number}", "--", "true")
        pool.store.claim(f"p{number}", 1, lease_ms=60_000, now_ms=now_ms(), native_id=native_id)
    states = {one["owner"]: one["job_state"] for one in pool.json("status")["pilots"]}
    assert states == {"p0": "RUNNING", "p1": "GONE"}


def test_a_task_tells_everything_about_itself(pool: Pool) -> None:
    pool("add", "a", "--attempts", "2", "--", "bash", "-c", "echo ::result reads=12; echo oh no; exit 3")
    pool("work")
    out = pool("show", "a", "--log").out
    for line in ("a: failed", "  exit code: 3", "  result reads: 12", "  error: Exit code 3. Its last line: oh no"):
        assert f"{line}\n" in out
    assert out.count("claimed") == 2
    assert out.endswith("::result reads=12\noh no\n")
    assert pool("show", "nothing").code == CommandExit.USAGE


def test_lists_are_filtered(pool: Pool) -> None:
    for name, kind, command in (("s-1", "small", "true"), ("s-2", "small", "false"), ("g-1", "gpu", "true")):
        pool("add", name, "--class", kind, "--", command)
    pool("work", "--class", "small")

    def listed(*args: str) -> list[str]:
        return [task["spec"]["id"] for task in pool.json("show", *args)["tasks"]]

    assert listed() == ["s-1", "s-2", "g-1"]
    assert listed("--state", "failed") == ["s-2"]
    assert listed("--state", "done", "--state", "todo") == ["s-1", "g-1"]
    assert listed("--class", "gpu") == ["g-1"]
    assert listed("--id", "s-*") == ["s-1", "s-2"]
    assert listed("--error", "EXIT code") == ["s-2"]
    assert listed("--older-than", "1h") == []
    assert "There are more than 2" in pool("show", "--limit", "2").err


def test_views_are_those_of_picas(pool: Pool) -> None:
    """In PiCaS a token that failed and was scrubbed stood in no view at all."""
    for name, command in (("a", "true"), ("b", "false"), ("c", "true")):
        pool("add", name, "--", command)
    pool("work", "--tasks", "2")
    pool.hold()
    assert [pool("views", view).out for view in ("todo", "locked", "done", "error")] == ["", "c\n", "a\n", "b\n"]
    assert pool.json("views")["overview_total"] == {
        "todo": 0,
        "locked": 1,
        "done": 1,
        "error": 1,
        "waiting": 0,
        "cancelled": 0,
    }
    pool("retry", "b")
    assert pool("views", "todo").out == "b\n"


@pytest.mark.parametrize("kind", EXPORTS)
def test_exports(pool: Pool, kind: str) -> None:
    pool("add", "a", "--", "bash", "-c", "echo ::result n=1")
    pool("add", "b", "--", "false")
    pool("work")
    told = pool("export", f"out.{kind}", "--state", "failed")
    assert told.err == f"1 task written to out.{kind}.\n"
    path = pool.folder / f"out.{kind}"
    if kind == "sqlite":
        with sqlite3.connect(path) as database:
            assert database.execute("SELECT id, state, exit_code FROM task").fetchall() == [("b", "failed", 1)]
        database.close()
    elif kind == "jsonl":
        assert [json.loads(line)["state"] for line in path.read_text().splitlines()] == ["failed"]
    else:
        with path.open() as file:
            [row] = csv.DictReader(file, delimiter="," if kind == "csv" else "\t")
        assert (row["id"], row["state"], row["exit_code"]) == ("b", "failed", "1")


def test_an_export_goes_to_a_pipe_and_back(pool: Pool) -> None:
    pool("add", "a", "--", "true")
    told = pool("export", "-")
    (pool.folder / "back.jsonl").write_text(told.out)
    assert pool("import", "back.jsonl", "--pool", "sqlite:other.sqlite").out.startswith("1 task added")


# Moves.


def test_a_retry_takes_what_failed(pool: Pool) -> None:
    for name, command in (("a", "true"), ("b", "false"), ("c", "false")):
        pool("add", name, "--", command)
    pool("work")
    told = pool("retry", "--state", "failed")
    assert (told.code, told.out) == (CommandExit.DONE, "2 tasks retried.\n")
    assert pool.states() == {"a": "done", "b": "todo", "c": "todo"}
    refused = pool("retry", "a")
    assert (refused.code, refused.out) == (CommandExit.CONFLICT, "0 tasks retried.\n")
    assert "Refused: Task a cannot go from done to todo" in refused.err


@pytest.mark.parametrize("verb", ["retry", "reset", "cancel", "delete"])
def test_no_names_never_mean_all(pool: Pool, verb: str) -> None:
    """To PyAnamo an empty list meant: delete everything."""
    pool("add", "a", "--", "true")
    told = pool(verb)
    assert told.code == CommandExit.USAGE
    assert f"Which tasks shall {verb} mean?" in told.err
    assert pool.states() == {"a": "todo"}


@pytest.mark.parametrize("verb", ["reset", "cancel", "delete"])
def test_what_filters_mean_is_asked_about(pool: Pool, verb: str) -> None:
    """PiCaS's deleteTokens asked nobody."""
    pool("add", "a", "--", "true")
    told = pool(verb, "--all")
    assert told.code == CommandExit.USAGE
    assert f"This would {verb} 1 task (a), and there is no terminal to ask on." in told.err
    assert pool.states() == {"a": "todo"}
    dry = pool(verb, "--all", "--dry-run")
    assert (dry.code, dry.out.split(".")[0][:16]) == (CommandExit.DONE, "1 task would be ")
    assert pool.states() == {"a": "todo"}


@pytest.mark.parametrize("verb", ["reset", "cancel", "delete"])
def test_what_a_pilot_holds_is_guarded(pool: Pool, verb: str) -> None:
    """PyAnamo and PiCaS set back what was running."""
    pool("add", "a", "--", "true")
    pool.hold()
    told = pool(verb, "a")
    assert told.code == CommandExit.CONFLICT
    assert "Task a is held by somebody for another" in told.err
    assert "--force" in told.err
    assert pool.states() == {"a": "held"}
    assert pool(verb, "a", "--force").code == CommandExit.DONE
    assert pool.states() == {"reset": {"a": "todo"}, "cancel": {"a": "cancelled"}, "delete": {}}[verb]


def test_a_name_that_is_no_task_makes_no_ghost(pool: Pool) -> None:
    """PyAnamo's reset of an unknown id made an item of that id."""
    pool("init")
    told = pool("reset", "ghost")
    assert told.code == CommandExit.USAGE
    assert "ghost" in told.err
    assert pool.json("status")["total"] == 0


@pytest.mark.parametrize("verb", ["retry", "reset", "cancel", "delete"])
def test_moves_are_undone_and_history_stays(pool: Pool, verb: str) -> None:
    """PyAnamo's and PiCaS's resets destroyed logs and history."""
    pool("add", "a", "--", "bash", "-c", "echo why; exit 3")
    pool("work")
    if verb == "cancel":
        pool("retry", "a")
    before = pool.json("show", "a")["tasks"][0]["task"]
    told = pool(verb, "a")
    act = re.search(r"pool undo (\S+)", told.err)
    assert act is not None
    assert pool("undo", act[1], "--dry-run").out == "1 task would be as before.\n"
    assert pool("undo", act[1]).out == "1 task as before.\n"
    after = pool.json("show", "a")["tasks"][0]
    assert after["task"]["state"] == before["state"]
    assert after["task"]["outcome"]["log_tail"] == "why\n"
    moves = [event["move"] for event in after["events"]]
    assert moves[-2:] == [{"retry": "retried", "cancel": "cancelled", "delete": "deleted"}.get(verb, verb), "undone"]
    assert pool("undo", "no-such-act").code == CommandExit.USAGE


def test_reap_takes_back_what_dead_pilots_held(pool: Pool) -> None:
    pool("add", "a", "--", "true")
    pool.hold(lease_ms=1)
    pool("add", "b", "--", "true")
    assert pool("reap").out == "Took 1 task back; freed 0 that waited for nothing.\n"
    assert pool.states() == {"a": "todo", "b": "todo"}


# Pilots.


def test_a_pilot_says_how_it_ended(pool: Pool) -> None:
    """PyAnamo's pilot ended with 0 whatever happened; its wall time was hours in words and seconds in deed."""
    pool("add", "a", "--", "false")
    told = pool("work", "--owner", "me")
    assert (told.code, told.out) == (CommandExit.FAILED, "")
    assert told.err == "Pilot me: 0 tasks done, 1 failed. It ended because nothing is left to do.\n"
    assert pool("work").code == CommandExit.DONE
    pool("add", "b", "--", "true")
    record = pool.json("work", "--wall-time", "4h")
    assert (record["done"], record["failed"], record["why"]) == (1, 0, "nothing is left to do")


def test_in_a_job_of_batch_a_pilot_did_its_work(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_BATCH_JOB_ID", "job:3")
    pool("add", "a", "--", "false")
    assert pool("work").code == CommandExit.DONE
    task = pool.store.get("a")
    assert task is not None
    assert (task.state.value, task.native_id) == ("failed", "job:3")


def test_slots_and_caps_are_numbers(pool: Pool) -> None:
    pool("init")
    for wrong in ("gpu", "gpu=x", "=1"):
        assert pool("work", "--slots", wrong).code == CommandExit.USAGE
    assert pool("work", "--slots", "gpu=1").code == CommandExit.DONE


def test_every_verb_helps_and_a_wrong_one_is_told(pool: Pool) -> None:
    """Without a verb PiCaS's command said nothing and ended with 0."""
    for verb in POOL_VERBS:
        told = pool(verb, "--help")
        assert (told.code, told.err) == (CommandExit.DONE, "")
        assert f"pool {verb}" in told.out
    assert "Did you mean 'status'?" in pool("statsu").err
    bare = pool()
    assert bare.code == CommandExit.USAGE
    assert "autopilot" in bare.out + bare.err


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("4h", 14_400), ("2d", 172_800), ("0", 0)]
)
def test_times_have_units(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds


def test_times_are_told_in_words() -> None:
    assert [in_words(seconds) for seconds in (0, 119, 120, 7300, 200_000)] == ["0 s", "119 s", "2 min", "2 h", "2.3 d"]


# Real pilots.


@pytest.mark.engine
def test_what_a_killed_pilot_held_is_done_by_another(pool: Pool) -> None:
    """A real pilot, killed by -9 in the middle of a task: its command ends with it, the next pilot does the task."""
    pid = pool.folder / "pid"
    pool("add", "t", "--shell", f"[ -e {pid} ] && exit 0; echo $$ >{pid}; sleep 600; sleep 600")
    command = [sys.executable, "-m", "batch_pipeline", "pool", "work", "--lease", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    first = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    try:
        until(lambda: pid.exists() and pid.read_text().endswith("\n"))
        first.send_signal(signal.SIGKILL)
        first.communicate(timeout=30)
        until(lambda: is_gone(int(pid.read_text())))
        assert pool.states() == {"t": "held"}
        second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    finally:
        first.kill()
        first.communicate()
    assert second.returncode == CommandExit.DONE
    assert "Took 1 tasks back" in second.stderr
    [told] = pool.json("show", "t")["tasks"]
    assert [event["move"] for event in told["events"]] == ["added", "claimed", "expired", "claimed", "done"]
    assert (told["task"]["returns"], told["task"].get("attempts", 0)) == (1, 0)


@pytest.mark.engine
def test_a_pilot_that_is_told_to_end_ends_with_143(pool: Pool) -> None:
    began = pool.folder / "began"
    pool("add", "t", "--shell", f"touch {began}; sleep 600; sleep 600")
    command = [sys.executable, "-m", "batch_pipeline", "pool", "work"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        began.unlink(missing_ok=True)
        pilot = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            until(began.exists)
            pilot.send_signal(number)
            assert pilot.wait(timeout=30) == code
        finally:
            pilot.kill()
            pilot.wait()
        assert pool.states() == {"t": "todo"}


@pytest.mark.engine
def test_the_autopilot_drains_a_pool(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_PIPELINE__WATCH__POLL_SECONDS", "0.1")
    for number in range(6):
        pool("add", f"t{number}", "--class", "ab"[number % 2], "--", "true")
    told = pool("autopilot", "--most", "1", "--", "--items", "2")
    assert told.code == CommandExit.DONE
    assert re.findall(r"^([ab]): started 1 pilot", told.err, re.MULTILINE) == ["a", "b"]
    assert set(pool.states().values()) == {"done"}


@pytest.mark.engine
def test_pilots_run_as_array_jobs_of_batch(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    from batch_pipeline.localbatch.client import stop

    state = pool.folder / "engine"
    for name, value in {"EMBEDDED__STATE": str(state), "EMBEDDED__VCPUS": "2", "WATCH__POLL_SECONDS": "0.2"}.items():
        monkeypatch.setenv(f"BATCH_PIPELINE__{name}", value)
    for number in range(12):
        pool("add", f"t{number}", "--shell", f"echo $AWS_BATCH_JOB_ID; touch {pool.folder}/held-$TASK_ID; sleep 0.2")
    pool("add", "bad", "--", "false")
    try:
        told = pool("autopilot", "--on", "batch", "--most", "2", "--memory", "256", "--", "--items", "2")
        queued = re.search(r"default: queued 2 pilots as job (\S+), beside 0 there already", told.err)
        assert queued, told.err
        assert told.code == CommandExit.DONE
        states = pool.states()
        assert (states.pop("bad"), set(states.values())) == ("failed", {"done"})
        tasks = pool.json("show")["tasks"]
        assert {task["native_id"].partition(":")[0] for task in tasks} == {queued[1]}
        # An autopilot on another machine counts what was launched, and forgets what has ended; this one may have, too.
        launched = pool.folder / "store/default/pool/pilots"
        assert len(list(launched.glob("*.json"))) <= 1
        until(lambda: pool("autopilot", "--on", "batch", "--once").code == 0 and not list(launched.glob("*.json")))
    finally:
        stop(state)


@pytest.mark.engine
def test_a_pilot_whose_job_is_ended_gives_back_what_it_held(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a Spot instance is reclaimed: TERM to the container, through fetch-and-run, to the pilot."""
    from batch_pipeline.backends import create
    from batch_pipeline.config import load_settings
    from batch_pipeline.localbatch.client import stop

    state, began = pool.folder / "engine", pool.folder / "began"
    monkeypatch.setenv("BATCH_PIPELINE__EMBEDDED__STATE", str(state))
    pool("add", "t", "--shell", f"touch {began}; sleep 600; sleep 600")
    try:
        told = pool("autopilot", "--on", "batch", "--once", "--memory", "256")
        queued = re.search(r"queued 1 pilot as job (\S+),", told.err)
        assert queued, told.err
        until(began.exists)
        backend = create(load_settings({}))
        backend.cancel(queued[1], "the host is wanted back")
        until(lambda: pool.states() == {"t": "todo"})
        until(lambda: backend.summaries([queued[1]])[queued[1]].state.final)
        [child] = backend.children(queued[1], list(JobState))
        backend.close()
        assert child.exit_code == 75
        task = pool.store.get("t")
        assert task is not None
        assert (task.attempts, task.returns, task.native_id) == (0, 1, queued[1])
    finally:
        stop(state)


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["dynamodb", "couchdb"])
def test_the_verbs_on_a_real_server(pool: Pool, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "dynamodb":
        for name, value in databases.IDENTITY.items():
            monkeypatch.setenv(name, value)
        place = f"http://127.0.0.1:{databases.dynalite().port}"
        url = f"dynamodb://pool-{uuid4().hex}?region={databases.REGION}&endpoint={place}"
    else:
        url = f"couchdb://127.0.0.1:{databases.pouchdb().port}/pool-{uuid4().hex}"
    monkeypatch.setenv("BATCH_PIPELINE__POOL__URL", url)
    assert pool("status").code == CommandExit.UNREACHABLE
    assert pool("init").code == CommandExit.DONE
    (pool.folder / "items.txt").write_text(PYANAMO)
    assert pool("import", "items.txt").out.startswith("4 tasks added")
    pool("add", "bad", "--attempts", "2", "--", "bash", "-c", "echo ::result n=1; exit 3")
    pool("add", "after", "--after", "Single_1", "--", "true")
    assert pool("work", "--items", "2", "--nests", "2").code == CommandExit.FAILED
    states = pool.states()
    assert (states.pop("bad"), set(states.values()), len(states)) == ("failed", {"done"}, 5)
    assert "5 of 6 tasks done (83%), 0 left." in pool("status").out
    assert pool("views", "error").out == "bad\n"
    act = re.search(r"pool undo (\S+)", pool("reset", "bad").err)
    assert act is not None
    assert pool.states()["bad"] == "todo"
    assert pool("undo", act[1]).out == "1 task as before.\n"
    [told] = pool.json("show", "bad")["tasks"]
    assert told["task"]["outcome"]["fields"] == {"n": "1"}
    assert [event["move"] for event in told["events"]][-2:] == ["reset", "undone"]
    assert pool("export", "all.jsonl").err == "6 tasks written to all.jsonl.\n"


@pytest.mark.servers
def test_the_pilot_of_the_page_in_another_language_works_beside_ours(
    pool: Pool, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"pool-{uuid4().hex}"
    server = f"127.0.0.1:{databases.pouchdb().port}/{name}"
    monkeypatch.setenv("BATCH_PIPELINE__POOL__URL", f"couchdb://{server}")
    page = (root / "docs/pool.md").read_text()
    (pool.folder / "pilot.js").write_text(page.split("```js\n")[1].split("```")[0])
    rows = "".join(f"t{number},echo did $((6 * 7)),\n" for number in range(30))
    (pool.folder / "t.csv").write_text(f"id,shell,most_attempts\n{rows}bad,exit 3,2\nlast,true,\n")
    pool("import", "t.csv")
    pool("add", "after", "--after", "last", "--", "true")
    line = ["node", "pilot.js", f"http://{server}"]
    theirs = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    try:
        pool("work", "--tasks", "10")
        _, said = theirs.communicate(timeout=60)
    finally:
        theirs.kill()
        theirs.wait()
    assert (theirs.returncode, said) == (0, "")
    # It frees nobody, and says so in what it writes.
    with closing(databases.couchdb_pool(database=name)) as ours:
        ours.reap(now_ms=0)
    assert pool.states()["after"] == "todo"
    pool("work")
    states = pool.states()
    assert (states.pop("bad"), set(states.values()), len(states)) == ("failed", {"done"}, 32)
    tasks = pool.json("show", *states)["tasks"]
    ends = [event["owner"] for task in tasks for event in task["events"] if event["move"] == "done"]
    assert len(ends) == 32
    assert {owner.rpartition("-")[0] for owner in ends} == {"node", socket.gethostname()}
    by_node = [task for task in tasks if task["task"]["owner"].startswith("node-")]
    assert "did 42\n" in {task["task"]["outcome"].get("log_tail") for task in by_node}


def test_pilots_on_aws_need_a_pool_that_they_can_reach(pool: Pool) -> None:
    pool("add", "a", "--", "true")
    told = pool("autopilot", "--on", "batch", "--backend", "aws", "--store", "store/default")
    assert told.code == CommandExit.USAGE
    assert "Jobs on AWS cannot reach the pool sqlite://" in told.err


def test_a_run_through_pilots_on_aws_needs_that_and_an_image(run: Run, world: Path) -> None:
    line = ("run", "--backend", "aws", "--store", "store/default", "--sample-list-file", "list.txt", "--pilots", "2")
    assert "Jobs on AWS cannot reach the pool sqlite://" in run(*line).err
    told = run(*line, "--pool", "dynamodb://table")
    assert told.code == CommandExit.USAGE
    assert "set pool.image" in told.err
    told = run("run", "--sample-list-file", "list.txt", "--pilots", "2", "--container", "podman")
    assert told.code == CommandExit.USAGE
    assert "Pilots on this machine run steps as processes" in told.err
    assert not (world / "store/default/runs").exists()


def is_gone(pid: int) -> bool:
    """Whether a process has ended; where nobody reaps orphans it stays as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "It did not come to that."
        time.sleep(0.01)


def test_verbose_shows_what_a_pilot_decides_and_a_file_keeps_it(pool: Pool) -> None:
    pool("add", "t", "--", "true")
    quiet = pool("work", "--log-file", "pilot.log")
    assert "claimed" not in quiet.err
    kept = (pool.folder / "pilot.log").read_text()
    pool("add", "u", "--", "true")
    told = pool("work", "--verbose")
    for name, text in (("t", kept), ("u", told.err)):
        for logger, word in (("claim_queue", "claimed"), ("pilot", "started"), ("settlement_queue", "settled")):
            assert re.search(rf"INFO +- pool\.pilots\.{logger}: {word} task={name} fence=1", text)
        assert "pilot ended owner=" in text
