"""`--events`, `--notify` and `--notify-command`: what programs and people are told of a run."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline import backends
from batch_pipeline.cli import notify
from batch_pipeline.cli.notify import Notifier, notifier_of
from batch_pipeline.config import load_settings
from batch_pipeline.run import live
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidUse, StoreFailed
from batch_pipeline.wire.scrub import scrubbed_words
from batch_pipeline.wire.store import open_store
from tests.cli.letters import Run
from tests.run import small
from tests.run.small import Stage, request_of

LIST = ("--sample-list-file", "list.txt")
SECRET = "T0/B0/hunter2"


class Hook(HTTPServer):
    """A webhook on loopback, which answers with the statuses that it is given, then 200."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses: list[int] = []
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}/{SECRET}"


class _Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        self.server.paths.append(self.path)
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", f"{self.server.url}/elsewhere")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        """Prints nothing."""


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    monkeypatch.setattr(notify, "BACK_OFF_SECONDS", (0.0, 0.0))
    server = Hook()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def stage(world: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage(open_store(str(world / "store" / "default")))
    request_of(made.store, "S1", "S2")
    monkeypatch.setattr(backends, "create", lambda settings: made)
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.0)
    return made


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# Events.


def test_every_line_is_an_event_of_the_run_and_the_last_is_its_end(stage: Stage, run: Run, world: Path) -> None:
    assert run("run", *LIST, "--events", "events.jsonl", workflow=small.Letters).code == CommandExit.DONE

    lines = lines_of((world / "events.jsonl").read_text())
    names = [line["event"] for line in lines]
    (run_id,) = stage.store.folders("runs")
    assert names[:2] == ["planned", "wave"]
    assert names[2:5] == ["submitted"] * 3
    assert names[-1] == "ended"
    assert names.count("ended") == 1
    assert set(names) == {"planned", "wave", "submitted", "progress", "ended"}
    assert all(list(line)[:4] == ["format", "time", "run_id", "event"] and line["format"] == 1 for line in lines)
    assert {line["run_id"] for line in lines[1:]} == {run_id}
    planned, wave, submitted, ended = lines[0], lines[1], lines[2], lines[-1]
    assert [(step["step"], step["to_run"]) for step in planned["steps"]] == [("upper", 2), ("count", 2), ("total", 1)]
    assert (planned["submit_calls"], planned["blocked"], "jobs" in planned) == (3, 0, False)
    assert wave["wave"] == 1
    assert wave["folder"].endswith(f"/runs/{run_id}/")
    assert (submitted["step"], submitted["job"], submitted["cells"]) == ("upper", "upper-0-0", 2)
    assert lines[-2]["steps"] == ended["steps"]
    assert (ended["ok"], ended["run_ids"], ended["failed"], ended["next"]) == (True, [run_id], 0, [])
    assert ended["text"] == "Done: 5/5 done"
    assert ended["spent"]["currency"] == ""


def test_on_stdout_there_is_nothing_else_and_a_file_is_appended_to(stage: Stage, run: Run, world: Path) -> None:
    told = run("run", *LIST, "--events", "-", workflow=small.Letters)
    assert lines_of(told.out)[-1]["event"] == "ended"
    assert "upper: 2/2 done" in told.err
    for _ in range(2):
        run("run", *LIST, "--events", "events.jsonl", workflow=small.Letters)
    lines = lines_of((world / "events.jsonl").read_text())
    assert [line["event"] for line in lines] == ["planned", "progress", "ended"] * 2
    told = run("run", *LIST, "--events", "-", "--json", workflow=small.Letters)
    assert (told.code, told.out) == (CommandExit.USAGE, "")
    assert "both print to stdout" in told.err


def test_failures_are_told_by_cause_with_names_and_the_next_commands(stage: Stage, run: Run) -> None:
    stage.play = lambda step, sample, attempt: int(step == "upper")
    told = run("run", *LIST, "--events", "-", workflow=small.Letters)
    assert told.code == CommandExit.FAILED
    ended = lines_of(told.out)[-1]
    assert ended["causes"] == [{"step": "upper", "reason": "step_failed", "cells": 2, "samples": ["S1", "S2"]}]
    assert (ended["ok"], ended["failed"], ended["steps"][1]["failed"]) == (False, 5, {"dependency": 2})
    assert ended["next"] == ["logs S1 upper", "logs --step upper --failed", "run --failed"]
    assert ended["text"].startswith("5 cells not done: 0/5 done, ")


def test_watch_tells_events_too(stage: Stage, run: Run) -> None:
    stage.is_open = False
    told = run("run", *LIST, "--detach", "--events", "-", workflow=small.Letters)
    assert (lines_of(told.out)[-1]["detached"], lines_of(told.out)[-1]["text"][:6]) == (True, "Queued")
    stage.is_open = True
    told = run("watch", *LIST, "--events", "-", workflow=small.Letters)
    assert [line["event"] for line in lines_of(told.out)][-2:] == ["progress", "ended"]
    told = run("watch", "--events", "-", workflow=None)
    assert [line["event"] for line in lines_of(told.out)][-1] == "ended"
    assert "Nothing to watch" in told.err


def test_a_file_that_cannot_be_opened_is_refused_before_anything_is_done(stage: Stage, run: Run) -> None:
    told = run("run", *LIST, "--events", "nowhere/events.jsonl", workflow=small.Letters)
    assert told.code == CommandExit.USAGE
    assert "nowhere/events.jsonl cannot be written: No such file or directory" in told.err
    assert not stage.store.folders("runs")


def test_a_full_disk_does_not_end_the_run_and_is_told_once(stage: Stage, run: Run) -> None:
    told = run("run", *LIST, "--events", "/dev/full", workflow=small.Letters)
    assert told.code == CommandExit.DONE
    assert told.err.count("events are not written any more: No space left on device") == 1


def test_a_reader_that_goes_away_does_not_end_the_run(stage: Stage, run: Run, world: Path) -> None:
    os.mkfifo(world / "pipe")
    reader = os.open(world / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    open_ends = [reader]

    def played(step: str, sample: str, attempt: int) -> int:
        while open_ends:
            os.close(open_ends.pop())
        return 0

    stage.play = played
    told = run("run", *LIST, "--events", "pipe", workflow=small.Letters)
    assert told.code == CommandExit.DONE
    assert told.err.count("events are not written any more: Broken pipe") == 1


def test_an_error_is_the_last_event(stage: Stage, run: Run, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise StoreFailed("The store is gone, token=hunter2 and all.")

    monkeypatch.setattr("batch_pipeline.run.driver.judge", broken)
    told = run("run", *LIST, "--events", "-", "--notify", hook.url, workflow=small.Letters)
    last = lines_of(told.out)[-1]
    assert (last["event"], last["error"]) == ("stopped", "StoreFailed")
    assert last["message"] == "The store is gone, token=*** and all."
    assert hook.bodies == [last]


# Notifications.


def test_the_end_is_posted_and_given_to_a_program(stage: Stage, run: Run, hook: Hook, world: Path) -> None:
    command = ("--notify-command", "sh -c 'cat > told.json; echo \"$0\" > word.txt' 'two words; $(date)'")
    assert run("run", *LIST, "--notify", hook.url, *command, workflow=small.Letters).code == CommandExit.DONE
    (body,) = hook.bodies
    assert (body["event"], body["ok"], body["format"]) == ("ended", True, 1)
    assert hook.paths == [f"/{SECRET}"]
    assert json.loads((world / "told.json").read_text()) == body
    assert (world / "word.txt").read_text() == "two words; $(date)\n"
    run("run", *LIST, "--notify", hook.url, workflow=small.Letters)
    assert len(hook.bodies) == 1, "nothing was to do"
    stage.is_open = False
    run("run", *LIST, "--force", "--detach", "--notify", hook.url, workflow=small.Letters)
    assert len(hook.bodies) == 1, "nothing has ended"


@pytest.mark.parametrize(
    ("statuses", "calls", "warning"),
    [
        ([500, 429], 3, ""),
        ([500, 503, 408], 3, "127.0.0.1 was not notified: it answered 408."),
        ([404], 1, "127.0.0.1 was not notified: it answered 404."),
        ([302], 1, "127.0.0.1 was not notified: it answered 302."),
    ],
)
def test_transient_errors_are_tried_again_and_the_rest_is_a_warning(
    stage: Stage, run: Run, hook: Hook, statuses: list[int], calls: int, warning: str
) -> None:
    hook.statuses = statuses
    told = run("run", *LIST, "--notify", hook.url, workflow=small.Letters)
    assert told.code == CommandExit.DONE
    assert len(hook.bodies) == calls
    assert warning in told.err
    assert "hunter2" not in told.err + told.out


def test_attempts_back_off_and_a_place_that_does_not_answer_is_a_warning() -> None:
    pauses: list[float] = []
    notifier = Notifier(url="http://127.0.0.1:9/x", command=("sh", "-c", "echo no; exit 3"))
    assert list(notifier.notify({}, sleep=pauses.append)) == [
        "127.0.0.1 was not notified: Connection refused. Check notify.url.".replace(
            "Connection", "[Errno 111] Connection"
        ),
        "The program sh was not notified: it ended with 3 (no). Check notify.command.",
    ]
    assert pauses == [1.0, 4.0]
    assert "No such file" in next(iter(Notifier(command=("no-such-program",)).notify({})))
    assert "http" not in repr(notifier)


def test_the_url_stands_in_no_record_and_no_log(stage: Stage, run: Run, hook: Hook, world: Path) -> None:
    run("run", *LIST, "--notify", hook.url, "--log-file", "log.txt", "--events", "events.jsonl", workflow=small.Letters)
    assert hook.bodies
    for path in (path for path in world.rglob("*") if path.is_file()):
        assert b"hunter2" not in path.read_bytes(), path
    words = [
        "--notify",
        hook.url,
        f"--notify={hook.url}",
        "--set",
        f"notify.url={hook.url}",
        f"--set=notify.url={hook.url}",
    ]
    assert "hunter2" not in " ".join(scrubbed_words(words))
    assert scrubbed_words(["--notify", "env:HOOK"]) == ["--notify", "env:HOOK"]


def test_a_url_is_read_where_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def url_of(url: str, **more: Any) -> str:
        return notifier_of(load_settings({"notify.url": url, **more}, environ={}, folder=tmp_path)).url

    (tmp_path / "hook").write_text("https://example.org/x\n")
    monkeypatch.setenv("HOOK", "https://example.org/y")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert url_of(f"file:{tmp_path}/hook") == url_of("file:~/hook") == "https://example.org/x"
    assert url_of("env:HOOK") == "https://example.org/y"
    with pytest.raises(InvalidUse, match="env:NONE is not there"):
        url_of("env:NONE")
    with pytest.raises(InvalidUse, match=r"must be an https URL .* the one of example\.org is none"):
        url_of("http://example.org/hunter2")
    assert url_of("http://example.org/x", **{"notify.allow_http": True}) == "http://example.org/x"
    with pytest.raises(InvalidUse, match=r"notify\.command cannot be split"):
        notifier_of(load_settings({"notify.command": "a 'b"}, environ={}, folder=tmp_path))
