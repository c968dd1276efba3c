"""What happened to a run after its record was written: events, each an object of its own that is never changed.

    runs/{run_id}/events/{id}.json   {"at", "event", "by", "host", "message", …}      ids are ULIDs: they sort by time

The record says what was asked; events say what became of it where no other object does: that a submission failed and
why, who cancelled, what was sent again, how it ended, what was released. Times and ids of records are made here too.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

from batch_pipeline.records.people import user_name
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import StoreFailed
from batch_pipeline.wire.scrub import scrubbed
from batch_pipeline.wire.store import Store

FORMAT: Final = 1
#: https://github.com/ulid/spec: 48 bits of milliseconds in the first ten characters.
_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ID_CHARACTERS: Final = 26


class Happened(Enum):
    """What an event is of. The value is the word in the store."""

    SUBMISSION_FAILED = "submission failed"
    SUBMISSION_INTERRUPTED = "submission interrupted"
    CANCELLED = "cancelled"
    RECOVERY = "recovery"
    COST_BOUND = "cost bound reached"
    WIDTH_CHANGED = "width changed"
    ENDED = "ended"
    RELEASE_BEGUN = "release begun"
    RELEASED = "released"

    @property
    def is_problem(self) -> bool:
        """Whether the run did not do all that it was to do because of it."""
        return self in (Happened.SUBMISSION_FAILED, Happened.SUBMISSION_INTERRUPTED)


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened to a run."""

    at: str
    #: A value of `Happened`, or a later version's word.
    event: str
    by: str = ""
    host: str = ""
    message: str = ""
    #: The rest: job, counts, places.
    details: dict[str, Any] = field(default_factory=dict)


def now() -> str:
    """The time as records have it: ISO-8601, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_since(moment: str) -> float:
    """Seconds that have gone by since a moment as records have it."""
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()


def new_run_id() -> str:
    """A ULID."""
    from ulid import ULID  # imports pydantic: a twentieth of a second that a command with nothing to do need not pay

    return str(ULID())


def moment_of(run_id: str) -> datetime | None:
    """When an id was made, from itself alone; None for what is no ULID."""
    if len(run_id) != _ID_CHARACTERS or any(character not in _ALPHABET for character in run_id):
        return None
    number = 0
    for character in run_id[:10]:
        number = number * 32 + _ALPHABET.index(character)
    if number >= 1 << 48:
        return None
    try:
        return datetime.fromtimestamp(number / 1000, UTC)
    except (OverflowError, ValueError):
        return None


def append(store: Store, run_id: str, happened: Happened, message: str = "", **details: Any) -> None:
    """Adds an event to a run. Raises StoreFailed."""
    event = {
        "format": FORMAT,
        "at": now(),
        "event": happened.value,
        "by": user_name(),
        "host": socket.gethostname(),
        "message": scrubbed(message),
        **details,
    }
    key = layout.event(run_id, new_run_id())
    store.put_if_absent(key, json.dumps(event, indent=1, ensure_ascii=False).encode())


def append_if_possible(store: Store, run_id: str, happened: Happened, message: str, **details: Any) -> None:
    """Adds an event while another error is on its way, which must not be hidden by a store that fails."""
    try:
        append(store, run_id, happened, message, **details)
    except StoreFailed:
        pass


def read_events(store: Store, run_id: str) -> list[Event]:
    """The events of a run, oldest first. One LIST, and a GET an event. Raises StoreFailed, also for a damaged one."""
    return [_event(store, key) for key in sorted(store.keys(layout.events(run_id)))]


def problem_of(events: Sequence[Event]) -> str:
    """Why a run did not do all that it was to do: the newest such event in words; empty: none."""
    problems = [event for event in events if event.event in _PROBLEMS]
    return f"{problems[-1].event}: {problems[-1].message}" if problems else ""


_PROBLEMS: Final = frozenset(item.value for item in Happened if item.is_problem)


def _event(store: Store, key: str) -> Event:
    value = store.get_json(key)
    if not isinstance(value, dict):
        raise StoreFailed(f"{store.url_of(key)} is no event of a run; it was damaged: remove it.")
    known = {key: str(value.get(key) or "") for key in ("at", "event", "by", "host", "message")}
    return Event(**known, details={key: item for key, item in value.items() if key not in known and key != "format"})
