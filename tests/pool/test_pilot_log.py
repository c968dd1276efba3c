"""The log of pilots: a line for each decision, from which alone a pilot's life is told; no secrets."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from batch_pipeline.log import RunHandler, kept_by, line_of
from batch_pipeline.pool.base import Filter, Settlement, WriteResult
from batch_pipeline.pool.pilots.pilot import Pilot
from batch_pipeline.pool.pilots.pilot_config import PilotConfig, StopCriteria
from batch_pipeline.pool.stores.couchdb.server import Database
from batch_pipeline.pool.stores.dynamodb.table import Table
from batch_pipeline.pool.stores.memory import MemoryStore, MemoryTasks
from batch_pipeline.pool.stores.optimistic import OptimisticStore
from batch_pipeline.pool.task import Action, Move, Task, TaskSpec
from batch_pipeline.wire.errors import PoolFailed

_FACT = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S+)')


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a log: the logger's name, the event, and its facts."""

    logger: str
    event: str
    facts: dict[str, str]


class Keeper(RunHandler):
    """Keeps the lines of a pilot, as its log would have them."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(line_of(record, ""))

    @property
    def lines(self) -> list[Line]:
        return [_parsed(text) for text in self.texts]


def _parsed(text: str) -> Line:
    logger, _, message = text.split(" - ", 1)[1].partition(": ")
    facts = {key: json.loads(value) if value[0] == '"' else value for key, value in _FACT.findall(message)}
    return Line(logger=logger, event=_FACT.split(message)[0].strip(), facts=facts)


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    handler = Keeper()
    with kept_by(handler):
        yield handler


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def work(pool: MemoryStore, **config: Any) -> None:
    settings = {"owner": "p", "grace_seconds": 0.5, "longest_pause": 0.05, **config}
    Pilot(pool, PilotConfig(**settings)).run()


def moves_of(lines: Sequence[Line]) -> dict[str, list[Move]]:
    """What became of each task that a pilot held, from its log alone."""
    moves: dict[str, list[Move]] = defaultdict(list)
    words = {"claimed": Move.CLAIMED, "retried": Move.AGAIN, "released": Move.RELEASED}
    for line in lines:
        if line.event in words:
            moves[line.facts["task"]].append(words[line.event])
        elif line.event == "settled":
            moves[line.facts["task"]].append(Move(line.facts["state"]))
    return moves


class Away(MemoryStore):
    """A pool whose first settlement and first claim do not come through."""

    def __init__(self) -> None:
        super().__init__()
        self._away = {"claim", "settle"}

    def claim(self, *arguments: Any, **more: Any) -> list[Any]:
        self._fail_once("claim")
        return super().claim(*arguments, **more)

    def settle(self, settlements: Sequence[Settlement], *, now_ms: int) -> list[WriteResult]:
        self._fail_once("settle")
        return super().settle(settlements, now_ms=now_ms)

    def _fail_once(self, call: str) -> None:
        if call in self._away:
            self._away.remove(call)
            raise PoolFailed("The pool could not be reached.")


def test_a_pilots_life_is_told_from_its_log_alone(keeper: Keeper) -> None:
    pool = Away()
    specs = [
        TaskSpec(id="good", command=("true",), priority=3),
        TaskSpec(id="bad", command=("false",), most_attempts=2, priority=2),
        TaskSpec(id="interrupted", shell="exit 143", most_returns=1, priority=1),
        TaskSpec(id="slow", shell="sleep 60", time_limit_seconds=0.1),
        TaskSpec(id="late", command=("true",), after=("good",)),
    ]
    pool.add(specs, now_ms=now_ms())
    work(pool)
    lines = keeper.lines
    assert (lines[0].event, lines[0].facts["owner"], lines[0].facts["pool"]) == ("pilot began", "p", "memory")
    assert (lines[-1].event, lines[-1].facts["because"]) == ("pilot ended", "nothing is left to do")
    assert (lines[-1].facts["done"], lines[-1].facts["failed"]) == ("2", "3")
    mine = {Move.CLAIMED, Move.DONE, Move.FAILED, Move.AGAIN, Move.RELEASED, Move.LOST}
    for spec in specs:
        moves = [event.move for event in pool.events(task_id=spec.id) if event.move in mine]
        assert moves_of(lines)[spec.id] == [Move.FAILED if move is Move.LOST else move for move in moves], spec.id
    events = [line.event for line in lines]
    assert events.count("started") == events.count("claimed") == 7
    assert "pool failed, claim deferred" in events
    assert "pool failed, settlements deferred" in events
    assert "time limit reached" in events
    assert [line.facts["because"] for line in lines if line.event == "stopping"] == ["nothing is left to do"]


def test_each_claim_has_its_fencing_number_and_attempt(keeper: Keeper) -> None:
    pool = MemoryStore()
    pool.add([TaskSpec(id="t", command=("false",), most_attempts=3)], now_ms=now_ms())
    work(pool)
    claims = [line.facts for line in keeper.lines if line.event == "claimed"]
    assert [(facts["fence"], facts["attempt"]) for facts in claims] == [("1", "1"), ("2", "2"), ("3", "3")]
    ends = [(line.event, line.facts["fence"]) for line in keeper.lines if line.event in ("retried", "settled")]
    assert ends == [("retried", "1"), ("retried", "2"), ("settled", "3")]


def test_heartbeats_and_a_lost_lease_are_logged(keeper: Keeper) -> None:
    pool = MemoryStore()
    pool.add([TaskSpec(id="t", command=("sleep", "60"))], now_ms=now_ms())

    def delete() -> None:
        while not any(line.event == "heartbeat" for line in keeper.lines):
            time.sleep(0.01)
        pool.move(Filter(ids=frozenset({"t"})), Action.DELETE, now_ms=now_ms(), act="a", force=True)

    thread = threading.Thread(target=delete)
    thread.start()
    work(pool, lease_seconds=0.3)
    thread.join()
    beats = [(line.facts["leases"], line.facts["lost"]) for line in keeper.lines if line.event == "heartbeat"]
    assert set(beats[:-1]) == {("1", "0")}
    assert beats[-1] == ("1", "1")
    events = [line.event for line in keeper.lines]
    assert events.index("lease lost, task ended") < events.index("lost")


def test_an_expired_lease_and_a_deferred_task_are_logged(keeper: Keeper) -> None:
    pool = MemoryStore()
    pool.add([TaskSpec(id="t", command=("true",), time_limit_seconds=100.0)], now_ms=now_ms())
    pool.claim("dead", 1, lease_ms=1, now_ms=0)
    work(pool, criteria=StopCriteria(wall_seconds=50.0))
    facts = {line.event: line.facts for line in keeper.lines}
    assert facts["lease expired, task reaped"] == {"task": "t"}
    assert facts["deferred"]["because"] == "it would most likely end after the pilot's wall time"
    assert facts["released"]["counted"] == "False"
    assert facts["stopping"]["because"] == "no task would end before its wall time"


def test_no_variable_and_no_command_of_a_task_is_in_the_log(keeper: Keeper) -> None:
    pool = MemoryStore()
    secret = {"API_TOKEN": "hunter2hunter2"}
    pool.add([TaskSpec(id="t", shell="echo $API_TOKEN; exit 1", environment=secret)], now_ms=now_ms())
    work(pool)
    assert "settled" in {line.event for line in keeper.lines}
    assert "hunter2" not in "".join(keeper.texts)


class Stale(MemoryTasks):
    """Candidates as they were a while ago, once."""

    stale: Sequence[Task] = ()

    def candidates(self, count: int, classes: Collection[str] | None) -> Sequence[Task]:
        stale, self.stale = self.stale, ()
        return stale or super().candidates(count, classes)


def test_an_optimistic_write_that_met_anothers_is_logged(keeper: Keeper) -> None:
    tasks = Stale()
    pool = OptimisticStore(tasks)
    pool.add([TaskSpec(id=name, command=("true",)) for name in "ab"], now_ms=0)
    before = tasks.candidates(1, None)
    pool.claim("other", 1, lease_ms=1000, now_ms=0)
    tasks.stale = before
    assert [claim.id for claim in pool.claim("me", 1, lease_ms=1000, now_ms=0)] == ["b"]
    [line] = [line for line in keeper.lines if line.event == "conflict retried"]
    assert line == Line(
        logger="pool.stores.optimistic", event="conflict retried", facts={"write": "claim", "task": "a"}
    )


def test_a_throttled_table_is_logged(keeper: Keeper) -> None:
    table = Table("tasks", region="eu-central-1")
    answers: list[dict[str, Any]] = [
        {"Responses": {"tasks": []}, "UnprocessedKeys": {"tasks": {}}, "ResponseMetadata": {"RetryAttempts": 2}},
        {"Responses": {"tasks": []}, "ResponseMetadata": {"RetryAttempts": 0}},
    ]
    table._client = SimpleNamespace(batch_get_item=lambda **_: answers.pop(0))
    assert table.get(["t"]) == {}
    assert [(line.event, line.facts) for line in keeper.lines] == [
        ("throttled or answer lost, retried", {"call": "batch_get_item", "times": "2", "by": "botocore"}),
        ("throttled, rest retried", {"call": "batch_get_item"}),
    ]


class _Busy(BaseHTTPRequestHandler):
    """A server that has too many requests, once."""

    statuses: list[int]

    def do_GET(self) -> None:
        body = b"{}"
        self.send_response(self.statuses.pop(0))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def test_a_throttled_database_is_logged(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Busy, "statuses", [429, 200], raising=False)
    with HTTPServer(("127.0.0.1", 0), _Busy) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        database = Database(f"http://127.0.0.1:{server.server_port}", "tasks")
        database.call("GET", "/t")
        database.close()
        server.shutdown()
        thread.join()
    [line] = keeper.lines
    assert (line.event, line.facts["statuses"]) == ("throttled or broken, retried", "[429]")
