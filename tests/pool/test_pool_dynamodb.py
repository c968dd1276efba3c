"""The pool in DynamoDB: how its items lie, what it asks for, and what lost answers and cut connections do to it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest

from batch_pipeline.pool import moves
from batch_pipeline.pool.base import Settlement, WriteResult
from batch_pipeline.pool.moves import Holder
from batch_pipeline.pool.stores.dynamodb import items
from batch_pipeline.pool.stores.dynamodb.store import DynamoDbStore
from batch_pipeline.pool.stores.opening import open_pool
from batch_pipeline.pool.task import Move, Task, TaskOutcome, TaskSpec, TaskState
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.errors import InvalidUse, PoolFailed
from tests.servers import databases
from tests.servers.proxy import Proxy, proxy_to

FINE = TaskOutcome(end_reason=EndReason.FINISHED, exit_code=0)
LEASE_MS = 60_000


def spec(name: str, priority: int = 0) -> TaskSpec:
    return TaskSpec(id=name, command=("true",), priority=priority)


def settle_all(pool: DynamoDbStore, owner: str = "one", count: int = 10) -> int:
    settled = 0
    while claims := pool.claim(owner, count, lease_ms=LEASE_MS, now_ms=0):
        answers = pool.settle([Settlement(claim=claim, outcome=FINE) for claim in claims], now_ms=1)
        assert set(answers) == {WriteResult.ACCEPTED}
        settled += len(claims)
    return settled


# How items lie.


def test_levels_are_few_and_never_lower_for_a_higher_priority() -> None:
    priorities = [*range(-70, 70), 10**3, 10**6, 10**9, -(10**9)]
    levels = [items.level(priority) for priority in sorted(priorities)]
    assert levels == sorted(levels)
    assert len({items.level(priority) for priority in range(-(10**5), 10**5)}) < 70


def test_places_in_a_part_are_in_the_order_of_priority_then_time_then_adding() -> None:
    def place(priority: int, added_at_ms: int, running: int) -> str:
        task = Task(spec=spec("t", priority), state=TaskState.TODO, moves=1, added_at_ms=added_at_ms)
        return items.queue_place(task, running)

    wanted = [place(10**9, 9, 9), place(1, 9, 9), place(0, 5, 8), place(0, 6, 0), place(0, 6, 10), place(-3, 1, 0)]
    assert wanted == sorted(wanted)


@pytest.mark.parametrize("state", TaskState)
def test_the_queue_has_only_what_is_not_settled(state: TaskState) -> None:
    task = Task(spec=spec("t"), state=state, moves=3, added_at_ms=1, ended_at_ms=2)
    found = items.attributes(task, 4)
    assert ("queue_part" in found, "ended_part" in found) == (state in items.OPEN, state in items.FINAL)


def test_an_item_gives_back_its_task() -> None:
    added = moves.added(spec("t", 7), now_ms=5).after
    assert added
    held = moves.claimed(added, Holder(owner="me", native_id="job:1", lease_ms=9, now_ms=6)).after
    assert held
    item = items.attributes(held, 4) | items.fixed_attributes(held, 0)
    assert items.task_of(item) == held
    assert items.task_of({**item, "state": items.text(items.GONE)}) is None


def test_a_missing_region_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    with pytest.raises(PoolFailed, match=r"table tasks .* Set aws\.region"):
        open_pool("dynamodb://tasks")


def test_a_url_with_an_unknown_word_is_refused() -> None:
    with pytest.raises(InvalidUse, match=r"shard.*knows region and endpoint"):
        open_pool("dynamodb://tasks?shard=1")


# On a real server.


@pytest.fixture
def pool() -> Iterator[DynamoDbStore]:
    with closing(databases.dynamodb_pool(shards=4)) as opened:
        yield opened


@pytest.fixture
def proxy(pool: DynamoDbStore) -> Iterator[Proxy]:
    with proxy_to(databases.dynalite().port) as opened:
        yield opened


@pytest.fixture
def behind(pool: DynamoDbStore, proxy: Proxy) -> Iterator[DynamoDbStore]:
    """The same pool, through the proxy."""
    with closing(databases.dynamodb_pool(table=pool.table.name, port=proxy.port)) as opened:
        yield opened


@pytest.mark.servers
def test_a_table_that_is_not_there_or_holds_no_pool_is_told(pool: DynamoDbStore) -> None:
    url = f"?region={databases.REGION}&endpoint={databases.dynalite().url}"
    with pytest.raises(PoolFailed, match=r"table nowhere .*pool init"):
        open_pool(f"dynamodb://nowhere{url}")
    pool.table.call("delete_item", Key=items.key("#pool", "pool"))
    with pytest.raises(PoolFailed, match=r"holds no pool.*pool init"):
        open_pool(f"dynamodb://{pool.table.name}{url}")
    with closing(open_pool(f"dynamodb://{pool.table.name}{url}", create=True)) as opened:
        assert opened.counts().total == 0


@pytest.mark.servers
def test_a_task_costs_two_calls_and_little_more(pool: DynamoDbStore) -> None:
    pool.add((spec(f"t{number}") for number in range(200)), now_ms=0)
    pool.table.calls.clear()
    assert settle_all(pool) == 200
    assert pool.table.calls["UpdateItem"] == 400
    assert pool.table.calls.total() <= 2.3 * 200
    assert pool.table.conflicts == 0


@pytest.mark.servers
def test_no_part_is_hot_and_the_queue_is_empty_in_the_end(pool: DynamoDbStore) -> None:
    pool.add((spec(f"t{number}", number % 3) for number in range(240)), now_ms=0)
    parts = Counter(
        item["queue_part"]["S"] for page in pool.table.pages("scan", IndexName="queue") for item in page["Items"]
    )
    assert len(parts) == 4 * 3
    assert max(parts.values()) < 2 * 240 / len(parts)
    assert settle_all(pool) == 240
    assert [page["Count"] for page in pool.table.pages("scan", IndexName="queue")] == [0]


@pytest.mark.servers
def test_tables_are_paid_by_request_and_the_indexes_are_sparse(pool: DynamoDbStore) -> None:
    found = pool.table.call("describe_table")["Table"]
    assert found["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    keys = {index["IndexName"]: index["KeySchema"][0]["AttributeName"] for index in found["GlobalSecondaryIndexes"]}
    assert keys == {"queue": "queue_part", "ended": "ended_part"}


@pytest.mark.servers
def test_a_long_history_is_kept_whole_and_makes_no_item_large(pool: DynamoDbStore) -> None:
    pool.add([spec("t")], now_ms=0)
    for _ in range(15):
        [claim] = pool.claim("one", 1, lease_ms=LEASE_MS, now_ms=0)
        pool.release([claim], now_ms=1, why="again")
    told = list(pool.events(task_id="t"))
    assert [event.number for event in told] == list(range(1, 32))
    assert Counter(event.move for event in told) == {Move.ADDED: 1, Move.CLAIMED: 15, Move.RELEASED: 15}
    assert len(items.tail_of(pool.table.get(["t"])["t"])) <= items.TAIL


@pytest.mark.servers
def test_a_write_whose_answer_is_lost_is_known_as_ours(
    pool: DynamoDbStore, behind: DynamoDbStore, proxy: Proxy
) -> None:
    pool.add([spec("t")], now_ms=0)
    behind.claim("one", 0, lease_ms=LEASE_MS, now_ms=0)
    proxy.tell("lose 1")
    [claim] = behind.claim("one", 1, lease_ms=LEASE_MS, now_ms=0)
    assert proxy.tell("lose 1") == 1
    assert behind.settle([Settlement(claim=claim, outcome=FINE)], now_ms=1) == [WriteResult.ACCEPTED]
    assert proxy.tell("lose 0") == 2
    assert [event.move for event in pool.events(task_id="t")] == [Move.ADDED, Move.CLAIMED, Move.DONE]
    assert behind.table.conflicts == 0


@pytest.mark.servers
def test_a_connection_that_is_cut_and_restored_is_used_again(behind: DynamoDbStore, proxy: Proxy) -> None:
    behind.add([spec("t")], now_ms=0)
    proxy.tell("cut")
    proxy.tell("restore")
    assert len(behind.claim("one", 1, lease_ms=LEASE_MS, now_ms=0)) == 1


@pytest.mark.servers
def test_a_reaper_whose_clock_is_ahead_takes_nothing_from_a_pilot_that_is_heard_of(pool: DynamoDbStore) -> None:
    pool.add([spec("t"), spec("dead")], now_ms=0)
    claims = {claim.id: claim for claim in pool.claim("one", 2, lease_ms=LEASE_MS, now_ms=0)}
    ahead = 4 * LEASE_MS
    with closing(databases.dynamodb_pool(table=pool.table.name)) as reaper:
        assert reaper.reap(now_ms=ahead) == []
        assert pool.renew([claims["t"]], now_ms=30_000) == [WriteResult.ACCEPTED]
        assert reaper.reap(now_ms=ahead + LEASE_MS) == ["dead"]
    ends = [Settlement(claim=claims[name], outcome=FINE) for name in ("t", "dead")]
    assert pool.settle(ends, now_ms=31_000) == [WriteResult.ACCEPTED, WriteResult.REFUSED]


@pytest.mark.servers
def test_an_identity_is_in_no_log_and_no_error(
    pool: DynamoDbStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "geheim-4711")
    monkeypatch.setattr(databases, "IDENTITY", {})
    caplog.set_level(logging.DEBUG)
    with closing(databases.dynamodb_pool(table=pool.table.name)) as opened:
        opened.add([spec("t")], now_ms=0)
    with pytest.raises(PoolFailed) as failed:
        DynamoDbStore("nowhere", region=databases.REGION, endpoint=databases.dynalite().url)
    assert "geheim-4711" not in caplog.text + str(failed.value) + repr(failed.value.__cause__)
    assert caplog.text
