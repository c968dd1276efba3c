"""The pool in CouchDB: documents and views as PiCaS has them, credentials by reference, kills and lost answers."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from batch_pipeline.pool.base import Claim, Filter, Settlement, WriteResult
from batch_pipeline.pool.stores.couchdb.server import Database, credentials_for
from batch_pipeline.pool.stores.couchdb.store import CouchDbStore
from batch_pipeline.pool.stores.opening import open_pool
from batch_pipeline.pool.task import Action, Move, TaskOutcome, TaskSpec, TaskState
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import InvalidUse, PoolFailed
from tests.servers import databases
from tests.servers.proxy import Proxy, proxy_to

FINE = TaskOutcome(end_reason=EndReason.FINISHED, exit_code=0, fields={"reads": "12"})
WRONG = TaskOutcome(end_reason=EndReason.STEP_FAILED, exit_code=3, error="exit code 3", log_tail="no such sample")
LEASE_MS = 60_000
SECRET = "geheim-4711"
#: The five views of PiCaS.
VIEWS = ("todo", "locked", "done", "error", "overview_total")


def spec(name: str, **more: Any) -> TaskSpec:
    return TaskSpec(id=name, command=("echo", "two words"), **more)


def claim(pool: CouchDbStore, count: int = 1, **more: Any) -> list[Claim]:
    return pool.claim("host-1", count, lease_ms=LEASE_MS, now_ms=5_000_000, **more)


def settle(pool: CouchDbStore, held: Claim, outcome: TaskOutcome = FINE) -> WriteResult:
    [answer] = pool.settle([Settlement(claim=held, outcome=outcome)], now_ms=6_000_000)
    return answer


# Credentials, by reference.


def test_credentials_come_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert credentials_for("couchdb.example.org") is None
    monkeypatch.setenv("COUCHDB_USER", "ada")
    monkeypatch.setenv("COUCHDB_PASSWORD", SECRET)
    assert credentials_for("couchdb.example.org") == ("ada", SECRET)
    file = tmp_path / "password"
    file.write_text("from the file\n")
    monkeypatch.setenv("COUCHDB_PASSWORD_FILE", str(file))
    assert credentials_for("couchdb.example.org") == ("ada", "from the file")


def test_credentials_come_from_netrc_for_their_host_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "netrc"
    file.write_text(f"machine couchdb.example.org login ada password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(file))
    assert credentials_for("couchdb.example.org") == ("ada", SECRET)
    assert credentials_for("other.example.org") is None


def test_a_file_that_cannot_be_read_is_named_and_not_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "netrc"
    file.write_text(f"machine couchdb.example.org login ada passwort {SECRET}\n")
    monkeypatch.setenv("NETRC", str(file))
    with pytest.raises(InvalidUse, match=r"netrc \(line 1\)") as told:
        credentials_for("couchdb.example.org")
    assert SECRET not in str(told.value) + repr(told.value.__cause__)
    monkeypatch.setenv("COUCHDB_USER", "ada")
    monkeypatch.setenv("COUCHDB_PASSWORD_FILE", str(tmp_path / "none"))
    with pytest.raises(InvalidUse, match="password for CouchDB cannot be read"):
        credentials_for("couchdb.example.org")


@pytest.mark.parametrize("scheme", ["couchdb", "couchdbs", "couch", "http"])
def test_a_password_in_the_url_is_refused_and_not_repeated(scheme: str) -> None:
    with pytest.raises(InvalidUse) as told:
        open_pool(f"{scheme}://ada:{SECRET}@couchdb.example.org/tasks")
    assert SECRET not in str(told.value)


@pytest.mark.parametrize("url", ["couchdb://host", "couchdb://host/", "couchdb:///database", "couchdb://"])
def test_a_url_without_host_or_database_is_refused(url: str) -> None:
    with pytest.raises(InvalidUse, match="couchdb://HOST/DATABASE"):
        open_pool(url)


class _Doorkeeper(BaseHTTPRequestHandler):
    """Lets in whoever sends the right password, and sends those who ask for /away to another place."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/away"):
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/stolen")  # type: ignore[attr-defined]
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        allowed = self.headers["Authorization"] == "Basic YWRhOmdlaGVpbS00NzEx"
        answer = json.dumps({"views": {}} if allowed else {"error": "unauthorized", "reason": "Name or password."})
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, format: str, *arguments: Any) -> None:
        """Tells nobody."""


@contextmanager
def doorkeeper() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Doorkeeper) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_who_has_the_password_gets_in_and_it_is_in_no_log_and_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("COUCHDB_USER", "ada")
    with doorkeeper() as host:
        monkeypatch.setenv("COUCHDB_PASSWORD", "wrong-4712")
        with pytest.raises(PoolFailed, match=r"401 unauthorized.*COUCHDB_USER") as told:
            open_pool(f"couchdb://{host}/tasks")
        assert not told.value.transient
        monkeypatch.setenv("COUCHDB_PASSWORD", SECRET)
        with closing(open_pool(f"couchdb://{host}/tasks")) as opened:
            assert opened.name == f"http://{host}/tasks"
        with closing(Database(f"http://{host}/away", "tasks")) as away, pytest.raises(PoolFailed) as sent_away:
            away.call("GET")
    assert "/away/tasks" in _Doorkeeper.asked
    assert "/stolen" not in _Doorkeeper.asked
    told_of = caplog.text + str(told.value) + str(sent_away.value) + repr(sent_away.value.__cause__)
    assert "/tasks" in told_of
    assert not [word for word in (SECRET, "wrong-4712", "YWRhOmdl") if word in told_of]


# On a real server.


@pytest.fixture
def pool() -> Iterator[CouchDbStore]:
    with closing(databases.couchdb_pool()) as opened:
        yield opened


@pytest.fixture
def proxy(pool: CouchDbStore) -> Iterator[Proxy]:
    with proxy_to(databases.pouchdb().port) as opened:
        yield opened


@pytest.fixture
def behind(pool: CouchDbStore, proxy: Proxy) -> Iterator[CouchDbStore]:
    """The same pool, through the proxy."""
    with closing(databases.couchdb_pool(database=name_of(pool), port=proxy.port)) as opened:
        yield opened


def name_of(pool: CouchDbStore) -> str:
    return pool.database.name.rpartition("/")[2]


def seen(pool: CouchDbStore, view: str, design: str = "Monitor") -> list[str]:
    """What a client of PiCaS sees in a view: key and value are the id."""
    rows = pool.database.view(design, view).rows
    assert all(row["key"] == row["value"] == row["id"] for row in rows)
    return sorted(row["id"] for row in rows)


def overview(pool: CouchDbStore, design: str = "Monitor") -> dict[str, int]:
    return {row["key"]: row["value"] for row in pool.database.view(design, "overview_total", group=True).rows}


def document(pool: CouchDbStore, name: str) -> dict[str, Any]:
    return pool.database.documents([name])[name]


@pytest.mark.servers
def test_a_database_that_is_not_there_or_holds_no_pool_is_told(pool: CouchDbStore) -> None:
    host = databases.pouchdb().url.replace("http", "couchdb")
    with pytest.raises(PoolFailed, match=r"/nowhere could not be used \(404.*pool init"):
        open_pool(f"{host}/nowhere")
    with closing(open_pool(f"{host}/{name_of(pool)}")) as opened:
        assert opened.counts().total == 0
    with closing(open_pool(f"{host}/made-{name_of(pool)}", create=True)) as made:
        assert made.add([spec("t")], now_ms=0).added == 1


@pytest.mark.servers
def test_the_five_views_of_picas_have_each_task_where_picas_would(pool: CouchDbStore) -> None:
    pool.add([spec(name) for name in ("done", "failed", "again")], now_ms=0)
    held = {each.id: each for each in claim(pool, 3)}
    settle(pool, held["done"])
    settle(pool, held["failed"], WRONG)
    pool.release([held["again"]], now_ms=6_000_000, why="SIGTERM")
    pool.add([spec("held", priority=1)], now_ms=0)
    claim(pool)
    pool.add([spec("waits", after=("again",)), spec("cancelled"), spec("gone"), spec("todo")], now_ms=0)
    for name, action in (("cancelled", Action.CANCEL), ("gone", Action.DELETE)):
        pool.move(Filter(ids=frozenset({name})), action, now_ms=1, act=name)
    views = {view: seen(pool, view) for view in VIEWS[:4]}
    assert views == {"todo": ["again", "todo"], "locked": ["held"], "done": ["done"], "error": ["failed"]}
    assert overview(pool) == {"todo": 2, "locked": 1, "done": 1, "error": 1}


@pytest.mark.servers
def test_each_class_has_the_five_views_too(pool: CouchDbStore) -> None:
    pool.add([spec("s", resource_class="small"), spec("b1", resource_class="big"), spec("d")], now_ms=0)
    pool.add([spec("b2", resource_class="big")], now_ms=0)
    claim(pool, classes=["big"])
    assert (seen(pool, "todo", "small"), seen(pool, "todo", "default")) == (["s"], ["d"])
    assert (seen(pool, "todo", "big"), seen(pool, "locked", "big")) == (["b2"], ["b1"])
    assert overview(pool, "big") == {"todo": 1, "locked": 1}
    for design in ("Monitor", "small", "big", "default"):
        assert set(pool.database.call("GET", f"/_design/{design}")["views"]) == set(VIEWS)


@pytest.mark.servers
def test_a_document_is_a_token_of_picas_at_every_move(pool: CouchDbStore) -> None:
    def token() -> dict[str, Any]:
        names = ("type", "lock", "done", "hostname", "scrub_count", "input", "exit_code", "output", "error")
        return {name: document(pool, "t")[name] for name in names}

    pool.add([spec("t", most_attempts=2)], now_ms=0)
    new = token()
    assert new == {
        "type": "token",
        "lock": 0,
        "done": 0,
        "hostname": "",
        "scrub_count": 0,
        "input": "echo 'two words'",
        "exit_code": "",
        "output": {},
        "error": [],
    }
    [held] = claim(pool)
    assert token() == {**new, "lock": 5000, "hostname": "host-1"}
    settle(pool, held, WRONG)
    again = token()
    [error] = again["error"]
    assert (again["lock"], again["done"], again["scrub_count"]) == (0, 0, 1)
    assert error == {"time": "1970-01-01T01:40:00+00:00", "message": "exit code 3", "exception": "no such sample"}
    [held] = claim(pool)
    settle(pool, held)
    end = token()
    assert (end["lock"], end["done"], end["exit_code"], end["output"]) == (5000, 6000, 0, {"reads": "12"})


@pytest.mark.servers
def test_a_token_that_a_picas_client_locked_is_left_alone(pool: CouchDbStore) -> None:
    pool.add([spec("a"), spec("b")], now_ms=0)
    with closing(databases.couchdb_pool(database=name_of(pool))) as pilot:
        # It has seen both.
        assert [each.id for each in claim(pilot)] == ["a"]
        locked = {**document(pool, "b"), "lock": 99, "hostname": "worker-of-picas"}
        assert pool.database.save([locked]) != [None]
        assert claim(pilot) == []
    assert document(pool, "b")["hostname"] == "worker-of-picas"
    assert pool.get("b") is not None


@pytest.mark.servers
def test_tasks_claimed_together_cost_less_than_two_calls(pool: CouchDbStore) -> None:
    pool.add((spec(f"t{number}") for number in range(200)), now_ms=0)
    pool.database.calls.clear()
    settled = 0
    while claims := claim(pool, 10):
        ends = [Settlement(claim=each, outcome=FINE) for each in claims]
        settled += pool.settle(ends, now_ms=6_000_000).count(WriteResult.ACCEPTED)
    assert settled == 200
    assert pool.database.calls["POST _bulk_docs"] == 40
    assert pool.database.calls.total() < 0.3 * 200
    assert pool.database.conflicts == 0


@pytest.mark.servers
def test_a_write_whose_answer_is_lost_is_known_as_ours(pool: CouchDbStore, behind: CouchDbStore, proxy: Proxy) -> None:
    pool.add([spec("t"), spec("u")], now_ms=0)
    [other] = claim(behind)
    proxy.tell("lose 1")
    [held] = claim(behind)
    assert proxy.tell("lose 1") == 1
    assert settle(behind, held) is WriteResult.ACCEPTED
    assert proxy.tell("lose 0") == 2
    assert [event.move for event in pool.events(task_id=held.id)] == [Move.ADDED, Move.CLAIMED, Move.DONE]
    assert settle(behind, other) is WriteResult.ACCEPTED


@pytest.mark.servers
def test_a_connection_that_is_cut_and_restored_is_used_again(behind: CouchDbStore, proxy: Proxy) -> None:
    behind.add([spec("t")], now_ms=0)
    proxy.tell("cut")
    proxy.tell("restore")
    assert len(claim(behind)) == 1


@pytest.mark.servers
def test_a_reaper_whose_clock_is_ahead_takes_nothing_from_a_pilot_that_is_heard_of(pool: CouchDbStore) -> None:
    pool.add([spec("t"), spec("dead")], now_ms=0)
    claims = {each.id: each for each in claim(pool, 2)}
    ahead = 5_000_000 + 4 * LEASE_MS
    with closing(databases.couchdb_pool(database=name_of(pool))) as reaper:
        assert reaper.reap(now_ms=ahead) == []
        assert pool.renew([claims["t"]], now_ms=5_030_000) == [WriteResult.ACCEPTED]
        assert reaper.reap(now_ms=ahead + LEASE_MS) == ["dead"]
    assert [settle(pool, claims[name]) for name in ("t", "dead")] == [WriteResult.ACCEPTED, WriteResult.REFUSED]


@pytest.mark.servers
def test_pilots_that_met_look_at_other_places_of_the_highest_priority(pool: CouchDbStore) -> None:
    pool.add([spec(f"low{n}") for n in range(100)] + [spec(f"t{n}", priority=1) for n in range(300)], now_ms=0)
    with closing(databases.couchdb_pool(database=name_of(pool))) as other:
        claim(pool, 10)
        claim(other, 10)
        pool.database.conflicts = other.database.conflicts = 0
        taken = [each.task for _ in range(10) for store in (pool, other) for each in claim(store, 10)]
    assert {task.spec.priority for task in taken} == {1}
    assert len({task.id for task in taken}) == len(taken) == 200
    assert pool.database.conflicts + other.database.conflicts <= 60
    assert pool.counts().of(TaskState.HELD) == 220
