"""`pool status`: what is done, how far along, how many are left, who holds what, and how long it will take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.options import CommandOption, json_option
from batch_pipeline.cli.output import data, print_json, print_table, say
from batch_pipeline.pool.cli.call import in_words, now_ms, opened, pool_options, url_of
from batch_pipeline.report.tables import counted
from batch_pipeline.run.interrupts import pause
from batch_pipeline.wire.contract import CommandExit

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.pool.base import PoolStore
    from batch_pipeline.pool.overview import Overview

_MOST_NAMED = 5


def status(call: CommandCall) -> int:
    """Shows how far the pool is: tasks by class and state, items by progress, rate, time left, and who holds what.

    `--watch` follows it until nothing moves any more. It ends with 1 when tasks failed.
    """
    from batch_pipeline.pool.task import TaskState

    with opened(call) as pool:
        found = _watched(call, pool) if call.options["watch"] else _look(call, pool)
    if call.json:
        print_json(_record(call, found))
    else:
        _print(call, found)
    return CommandExit.FAILED if found.counts.of(TaskState.FAILED) else CommandExit.DONE


def _look(call: CommandCall, pool: PoolStore) -> Overview:
    from batch_pipeline.pool.overview import overview
    from batch_pipeline.pool.settings import job_states

    return overview(pool, now_ms=now_ms(), job_states=lambda ids: job_states(call.settings, ids))


def _watched(call: CommandCall, pool: PoolStore) -> Overview:
    from batch_pipeline.pool.overview import overview
    from batch_pipeline.pool.task import TaskState

    told = ""
    while True:
        pool.reap(now_ms=now_ms())
        found = overview(pool, now_ms=now_ms(), job_states=lambda ids: {})
        line = ", ".join(f"{found.counts.of(state):,} {state.value}" for state in TaskState if found.counts.of(state))
        if found.seconds_left is not None:
            line += f"; about {in_words(found.seconds_left)} left"
        if line != told:
            told = line
            say(line or "no tasks")
        if found.left <= 0:
            return _look(call, pool)
        pause(call.settings.watch.poll_seconds)


def _print(call: CommandCall, found: Overview) -> None:
    from batch_pipeline.pool.task import TaskState

    counts = found.counts
    total = counts.total
    if not total:
        data(f"{url_of(call)} has no tasks.")
        return
    done = counts.of(TaskState.DONE)
    data(f"{done:,} of {counted(total, 'task')} done ({done / total:.0%}), {max(found.left, 0):,} left.")
    states = [state for state in TaskState if counts.of(state)]
    rows = [(name, *(counts.of(state, [name]) for state in states)) for name in sorted(counts.by_class)]
    if len(rows) > 1:
        rows.append(("all", *(counts.of(state) for state in states)))
    print_table(("class", *(state.value for state in states)), rows)
    if found.progress:
        _print_progress(found)
    if found.rate:
        left = f"; about {in_words(found.seconds_left)} left" if found.seconds_left is not None else ""
        data(f"{found.rate * 60:.3g} tasks a minute{left}.")
    for task_id, reason in list(found.stuck_reasons.items())[:_MOST_NAMED]:
        data(f"{task_id} waits in vain: {reason}")
    if found.stuck > _MOST_NAMED:
        data(f"{found.stuck - _MOST_NAMED:,} more wait in vain. Retry what they need, or cancel them.")
    if found.unreleased:
        which = _named(found.unreleased_ids, found.unreleased)
        data(f"{counted(found.unreleased, 'task')} waiting although all that it needs is done: {which}.")
        data("The next pilot that looks frees it; without any, run pool reap.")
    if found.holders:
        _print_holders(found)


def _print_progress(found: Overview) -> None:
    from batch_pipeline.pool.overview import QUARTILES, WHOLE

    words = [word for word, _ in QUARTILES] + [WHOLE]
    data("Items by the part of their sub-tasks that is done:")
    rows = [
        (word, found.progress[word], _named(found.progress_ids.get(word, ()), found.progress[word]))
        for word in words
        if found.progress.get(word)
    ]
    print_table(("done", "items", "which"), rows)


def _print_holders(found: Overview) -> None:
    now = now_ms()
    rows = [
        (
            one.owner,
            one.held,
            f"{in_words((now - one.beat_at_ms) / 1000)} ago" + (", lease over" if one.is_late else ""),
            one.native_id,
            one.job_state,
            _named(one.ids, one.held),
        )
        for one in found.holders
    ]
    print_table(("pilot", "holds", "heard of", "job", "its state", "which"), rows)


def _named(ids: Sequence[str], count: int) -> str:
    return ", ".join(ids[:_MOST_NAMED]) + (", …" if count > _MOST_NAMED else "")


def _record(call: CommandCall, found: Overview) -> dict[str, Any]:
    from batch_pipeline.pool.task import TaskState

    counts = found.counts
    return {
        "format": 1,
        "pool": url_of(call),
        "total": counts.total,
        "left": max(found.left, 0),
        "states": {state.value: counts.of(state) for state in TaskState},
        "classes": {
            name: {state.value: number for state, number in states.items()} for name, states in counts.by_class.items()
        },
        "items": {state.value: number for state, number in found.items.items()},
        "progress": dict(found.progress),
        "rate_per_second": found.rate,
        "seconds_left": found.seconds_left,
        "waiting_in_vain": found.stuck,
        "waiting_for_nothing": found.unreleased,
        "pilots": [
            {
                "owner": one.owner,
                "native_id": one.native_id,
                "job_state": one.job_state,
                "held": one.held,
                "ids": list(one.ids),
                "beat_at_ms": one.beat_at_ms,
                "late": one.is_late,
            }
            for one in found.holders
        ],
    }


def make(name: str, workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    watch = CommandOption("--watch", "Follow it until nothing moves any more.", is_flag=True)
    return command(name, workflow, argv, status, [watch, *pool_options(), json_option()])
