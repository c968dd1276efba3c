"""Calls on one DynamoDB table: counted, paged, many at once, and with errors in our words.

An answer that got lost makes botocore send the write again, which then fails on its own first copy. So each write
leaves a nonce in the item, and a refusal after a repetition is looked at: with our nonce there, it had passed.

botocore is imported when a table is opened, and here rather than in the backends: a pool needs none of them.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

from batch_pipeline.log import Facts
from batch_pipeline.pool.stores.dynamodb import items
from batch_pipeline.pool.stores.dynamodb.items import Item, key, number, text
from batch_pipeline.pool.stores.dynamodb.updates import Update
from batch_pipeline.wire.errors import PoolFailed

_Value = TypeVar("_Value")
_Result = TypeVar("_Result")
#: Writes at once: one after another, a million tasks would take hours to import.
THREADS = 16
#: https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html and _BatchWriteItem.html
MOST_READ = 100
_MOST_WRITTEN = 25
_LOG = logging.getLogger(__name__)


class Table:
    """Calls on one table: counted, paged, and with errors in our words."""

    def __init__(self, name: str, *, region: str = "", profile: str = "", endpoint: str = "") -> None:
        self.name = name
        #: Operation -> calls that the service was sent.
        self.calls: Counter[str] = Counter()
        #: Writes that were refused because the task had changed.
        self.conflicts = 0
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.session import Session

        self._errors: tuple[type[Exception], ...] = (BotoCoreError, ClientError)
        config = Config(
            retries={"mode": "standard", "total_max_attempts": 8},
            max_pool_connections=2 * THREADS,
            connect_timeout=5,
            read_timeout=20,
        )
        place: Any = {"region_name": region or os.environ.get("AWS_REGION"), "endpoint_url": endpoint or None}
        try:
            self._client: Any = Session(profile=profile or None).create_client("dynamodb", config=config, **place)
        except self._errors as error:
            raise self._translated(error) from error
        self._client.meta.events.register("before-send.dynamodb", self._count)
        self._threads = ThreadPoolExecutor(THREADS, "dynamodb")

    def _count(self, request: Any, **_: Any) -> None:
        target = request.headers["X-Amz-Target"]
        self.calls[(target if isinstance(target, str) else target.decode()).rpartition(".")[2]] += 1

    def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Makes one call on the table."""
        return self._call(operation, TableName=self.name, **parameters)

    def _call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self._client, operation)(**parameters)
        except self._errors as error:
            raise self._translated(error) from error
        _log_retries(operation, answer)
        return answer

    def update(self, update: Update, nonce: str = "") -> Item | None:
        """Writes an item and returns all of it; None: its condition does not hold."""
        parameters = update.parameters()
        try:
            answer = self._client.update_item(TableName=self.name, ReturnValues="ALL_NEW", **parameters)
        except self._errors as error:
            response: Mapping[str, Any] = getattr(error, "response", None) or {}
            if response.get("Error", {}).get("Code") != "ConditionalCheckFailedException":
                raise self._translated(error) from error
            if nonce and response.get("ResponseMetadata", {}).get("RetryAttempts"):
                there: Item = self.call("get_item", Key=update.key, ConsistentRead=True).get("Item", {})
                if there.get("nonce") == text(nonce):
                    return there
            self.conflicts += 1
            return None
        _log_retries("update_item", answer)
        item: Item = answer["Attributes"]
        return item

    def pages(self, operation: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """The pages of a Query or Scan."""
        while True:
            page = self.call(operation, **parameters)
            yield page
            if not page.get("LastEvaluatedKey"):
                return
            parameters["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def query(self, part_name: str, part: str, *, index: str = "", **parameters: Any) -> Iterator[Item]:
        """The items of a partition of the table or of an index."""
        for page in self.pages("query", **query_of(part_name, part, index), **parameters):
            yield from page["Items"]

    def count(self, part_name: str, part: str, index: str, since_ms: int | None = None) -> int:
        """How many items a part of an index has."""
        query = query_of(part_name, part, index)
        if since_ms is not None:
            query["KeyConditionExpression"] += " AND ended_at_ms >= :since"
            query["ExpressionAttributeValues"][":since"] = number(since_ms)
        return sum(page["Count"] for page in self.pages("query", Select="COUNT", **query))

    def get(self, ids: Collection[str], *, names: Sequence[str] = ()) -> dict[str, Item]:
        """The tasks' items that are there, as they stand now."""
        items_by_id: dict[str, Item] = {}
        projected = {"ProjectionExpression": ",".join(names)} if names else {}
        # An empty string is nobody's key, and asking for it is an error.
        for some in pieces(filter(None, ids), MOST_READ):
            request: Any = {self.name: {"Keys": [key(name) for name in some], "ConsistentRead": True, **projected}}
            while request:
                answer = self._call("batch_get_item", RequestItems=request)
                items_by_id |= {item["pk"]["S"]: item for item in answer["Responses"][self.name]}
                request = answer.get("UnprocessedKeys")
                _log_unprocessed("batch_get_item", request)
        return items_by_id

    def put(self, new_items: Iterable[Item]) -> None:
        """Puts items, each of which may be there already."""
        for some in pieces(new_items, _MOST_WRITTEN):
            request: Any = {self.name: [{"PutRequest": {"Item": item}} for item in some]}
            while request:
                request = self._call("batch_write_item", RequestItems=request).get("UnprocessedItems")
                _log_unprocessed("batch_write_item", request)

    def at_once(self, act: Callable[[_Value], _Result], values: Sequence[_Value]) -> list[_Result]:
        """Does something to all values, many at once."""
        return [act(value) for value in values] if len(values) < 2 else list(self._threads.map(act, values))

    def is_there(self) -> bool:
        """Whether the table exists."""
        try:
            self._client.describe_table(TableName=self.name)
        except self._client.exceptions.ResourceNotFoundException:
            return False
        except self._errors as error:
            raise self._translated(error) from error
        return True

    def create(self) -> None:
        """Creates the table, unless it is there, and waits until it can be used."""
        try:
            self._client.create_table(TableName=self.name, **items.TABLE)
        except self._client.exceptions.ResourceInUseException:
            pass
        except self._errors as error:
            raise self._translated(error) from error
        waiter = self._client.get_waiter("table_exists")
        try:
            waiter.wait(TableName=self.name, WaiterConfig={"Delay": 0.2, "MaxAttempts": 1500})
        except self._errors as error:
            raise self._translated(error) from error

    def close(self) -> None:
        """Lets go of threads and connections."""
        self._threads.shutdown()
        self._client.close()

    def _translated(self, error: Exception) -> PoolFailed:
        code = (getattr(error, "response", None) or {}).get("Error", {}).get("Code") or type(error).__name__
        remedy = _REMEDIES.get(code, "Run the same command again; nothing that was answered is lost.")
        failed = PoolFailed(f"DynamoDB's table {self.name} could not be used: {error} {remedy}")
        failed.transient = code not in _REMEDIES or code == "EndpointConnectionError"
        return failed


def _log_retries(operation: str, answer: Mapping[str, Any]) -> None:
    """Logs what botocore tried again by itself: it says so in the answer alone."""
    if retries := answer.get("ResponseMetadata", {}).get("RetryAttempts", 0):
        _LOG.info("throttled or answer lost, retried %s", Facts(call=operation, times=retries, by="botocore"))


def _log_unprocessed(operation: str, request: Any) -> None:
    if request:
        _LOG.info("throttled, rest retried %s", Facts(call=operation))


_REMEDIES = {
    "ResourceNotFoundException": "Create it with `batch-pipeline pool init`, or name another table.",
    "AccessDeniedException": "Give your AWS identity the right to call it on the table and its indexes.",
    "UnrecognizedClientException": "The AWS credentials are wrong; run `aws sts get-caller-identity`.",
    "ExpiredTokenException": "The AWS credentials have expired; sign in again.",
    "NoCredentialsError": "Run `aws configure`, or set AWS_PROFILE or aws.profile.",
    "NoRegionError": "Set aws.region in batch_pipeline.toml or AWS_REGION.",
    "EndpointConnectionError": "Check the network and the endpoint, then run the same command again.",
}


def query_of(part_name: str, part: str, index: str) -> dict[str, Any]:
    """The parameters of a Query of a partition of the table, or of an index."""
    return {
        "KeyConditionExpression": f"{part_name} = :part",
        "ExpressionAttributeValues": {":part": text(part)},
        **({"IndexName": index} if index else {}),
    }


def pieces(values: Iterable[_Value], size: int) -> Iterator[list[_Value]]:
    """The values in lists of at most a size."""
    rest = iter(values)
    while some := list(islice(rest, size)):
        yield some
