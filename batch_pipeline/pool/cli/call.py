"""What the verbs of the pool share: which pool is meant, which tasks are meant, times in words."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from batch_pipeline.cli.call import CommandCall
from batch_pipeline.cli.options import CELLS, CommandOption, SettingOption, common_options
from batch_pipeline.wire.errors import InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.pool.base import Filter, PoolStore

#: As `pool.task.TaskState` has them; a test compares.
STATES: Final = ("waiting", "todo", "held", "done", "failed", "cancelled")
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


class Duration(click.ParamType[float]):
    """Seconds, or a number with its unit: `90`, `90s`, `30m`, `4h`, `2d`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds."""
        if isinstance(value, int | float):
            return float(value)
        matched = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", str(value).strip())
        if matched is None:
            self.fail(f"{value!r} is no time. Write 90, 90s, 30m, 4h or 2d.", param, ctx)
        return float(matched[1]) * _UNITS[matched[2]]


def pool_options() -> list[click.Parameter]:
    """Which pool is meant."""
    return [
        SettingOption(
            "--pool", "pool.url", "The pool.", metavar="URL", default_text="SQLite beside the store, see `pool init`"
        ),
        *common_options(),
    ]


def filter_options(*, ids: bool = True) -> list[click.Parameter]:
    """Which tasks are meant."""

    def option(flag: str, help: str, **more: Any) -> CommandOption:
        return CommandOption(flag, help, heading=CELLS, **more)

    named: list[click.Parameter] = [click.Argument(["ids"], nargs=-1, metavar="[ID]…")] if ids else []
    return [
        *named,
        option("--state", "In this state; repeatable.", multiple=True, type=click.Choice(STATES)),
        option("--class", "Of this resource class; repeatable.", multiple=True, metavar="CLASS", name="of_class"),
        option("--id", "Whose id is like this, with * and ?.", metavar="PATTERN", name="id_pattern"),
        option("--parent", "Sub-tasks of this item.", metavar="ID"),
        option("--owner", "Held by this pilot, now or last.", metavar="NAME"),
        option("--older-than", "That did not change for so long: 90s, 30m, 4h, 2d.", type=Duration(), metavar="TIME"),
        option("--error", "Whose last error says this.", metavar="TEXT"),
    ]


def filter_of(call: CommandCall) -> Filter:
    """The filter that the options make."""
    from batch_pipeline.pool.base import Filter
    from batch_pipeline.pool.task import TaskState

    options = call.options
    older = options.get("older_than")
    return Filter(
        states=frozenset(TaskState(name) for name in options.get("state") or ()),
        classes=frozenset(options.get("of_class") or ()),
        ids=frozenset(options.get("ids") or ()),
        id_pattern=options.get("id_pattern") or "",
        parent=options.get("parent") or "",
        owner=options.get("owner") or "",
        changed_before_ms=None if older is None else now_ms() - int(older * 1000),
        error=options.get("error") or "",
    )


@contextmanager
def opened(call: CommandCall, *, create: bool = False) -> Iterator[PoolStore]:
    """The pool that is meant. Raises PoolFailed, InvalidUse."""
    from batch_pipeline.pool.settings import pool_of

    pool = pool_of(call.settings, create=create)
    try:
        yield pool
    finally:
        pool.close()


def url_of(call: CommandCall) -> str:
    """The URL of the pool that is meant."""
    from batch_pipeline.records.place import pool_url

    return pool_url(call.settings)


def pairs(texts: Sequence[str], flag: str) -> dict[str, str]:
    """`NAME=VALUE` of a repeatable option. Raises InvalidUse."""
    for pair in texts:
        if not pair.partition("=")[0] or "=" not in pair:
            raise InvalidUse(f"{flag} {pair!r} is not in the form NAME=VALUE.")
    return {name: value for name, _, value in (pair.partition("=") for pair in texts)}


def require_some(call: CommandCall, verb: str) -> None:
    """Raises InvalidUse when nothing says which tasks are meant: no names never means all."""
    filters = (
        "ids",
        "state",
        "of_class",
        "id_pattern",
        "parent",
        "owner",
        "older_than",
        "error",
        "all",
    )
    if not any(call.options.get(name) for name in filters):
        raise InvalidUse(f"Which tasks shall {verb} mean? Name ids, filter (--state, --id …), or give --all.")


def who() -> str:
    """Who acts, for the tasks' history."""
    return f"{os.environ.get('USER') or os.getuid()}@{socket.gethostname()}"


def now_ms() -> int:
    """Now, since 1970."""
    return time.time_ns() // 1_000_000


def in_words(seconds: float) -> str:
    """A time as people say it: `40 s`, `12 min`, `3.5 h`, `2 d`."""
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}".replace(".0 ", " ")
    return f"{seconds:.0f} s"
