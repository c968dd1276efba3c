"""Where jobs that wait stand in their queue, and how much of its machines is used: GetJobQueueSnapshot in words."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Final

from batch_pipeline.backends.account import Inspectable, NotVisible, QueueSnapshot
from batch_pipeline.wire.errors import BackendFailed
from batch_pipeline.wire.native_id import NativeId

#: Positions that AWS tells: https://docs.aws.amazon.com/batch/latest/APIReference/API_GetJobQueueSnapshot.html
FRONT: Final = 100


def queue_place(backend: object, queue: str, native_ids: Collection[str]) -> str:
    """The place of the first of these jobs in their queue, in a sentence; empty where nothing can be said. One call.

    It never raises: an AWS identity that may not ask is no reason to end what asks, and neither is a lost answer.
    """
    if not isinstance(backend, Inspectable):
        return ""
    try:
        snapshot = backend.account.snapshot(queue)
    except (NotVisible, BackendFailed):
        return ""
    return place_words(snapshot, queue, native_ids)


def place_words(snapshot: QueueSnapshot, queue: str, native_ids: Collection[str]) -> str:
    """`412 vCPUs of queue mixed are in use; its first job is 37th since 14:02.` The time is this machine's."""
    used = "" if snapshot.vcpus is None else f"{snapshot.vcpus:,g} vCPUs of queue {queue} are in use"
    place = next(
        (
            (number, since)
            for number, (native_id, since) in enumerate(snapshot.front, start=1)
            if NativeId.parse(native_id).job in native_ids
        ),
        None,
    )
    if place is not None:
        number, since = place
        where = f"its first job is {_ordinal(number)}" + (f" since {_clock(since)}" if since else "")
    elif len(snapshot.front) >= FRONT:
        where = f"its jobs are behind the first {FRONT}"
    else:
        where = ""
    words = "; ".join(filter(None, (used, where)))
    return f"{words[:1].upper()}{words[1:]}." if where else ""


def _ordinal(number: int) -> str:
    """`1st`, `2nd`, `37th`, `111th`."""
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def _clock(milliseconds: int) -> str:
    """The time of day here, with the date where that is not today's."""
    moment = datetime.fromtimestamp(milliseconds / 1000).astimezone()
    today = datetime.now().astimezone().date()
    return f"{moment:%H:%M}" if moment.date() == today else f"{moment:%Y-%m-%d %H:%M}"
