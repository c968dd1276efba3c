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
    from batch_pipeline.pool.base import PoolReader, PoolStore
    from batch_pipeline.pool.overview import Overview

_MOST_NAMED = 5


def status(call: CommandCall) -> int:
    """Shows how far the pool is: tasks by class and state, items by progress, rate, time left, and who holds what.

    `--watch` follows it until nothing moves any more. It ends with 1 when tasks failed.
    """
    from batch_pipeline.pool.task import TaskState

    with opened(call) as pool:
        view = _watched(call, pool) if call.options["watch"] else _look(call, pool)
    if call.json:
        print_json(_record(call, view))
    else:
        _print(call, view)
    return CommandExit.FAILED if view.counts.of(TaskState.FAILED) else CommandExit.DONE


def _look(call: CommandCall, pool: PoolReader) -> Overview:
    from batch_pipeline.pool.overview import overview
    from batch_pipeline.pool.settings import job_states

    return overview(pool, now_ms=now_ms(), job_states=lambda ids: job_states(call.settings, ids))


def _watched(call: CommandCall, pool: PoolStore) -> Overview:
    from batch_pipeline.pool.overview import overview
    from batch_pipeline.pool.task import TaskState

    last_line = ""
    while True:
        pool.reap(now_ms=now_ms())
        view = overview(pool, now_ms=now_ms(), job_states=lambda ids: {})
        line = ", ".join(f"{view.counts.of(state):,} {state.value}" for state in TaskState if view.counts.of(state))
        if view.seconds_left is not None:
            line += f"; about {in_words(view.seconds_left)} left"
        if line != last_line:
            last_line = line
            say(line or "no tasks")
        if view.left <= 0:
            return _look(call, pool)
        pause(call.settings.watch.poll_seconds)


def _print(call: CommandCall, view: Overview) -> None:
    from batch_pipeline.pool.task import TaskState

    counts = view.counts
    total = counts.total
    if not total:
        data(f"{url_of(call)} has no tasks.")
        return
    done = counts.of(TaskState.DONE)
    data(f"{done:,} of {counted(total, 'task')} done ({done / total:.0%}), {max(view.left, 0):,} left.")
    states = [state for state in TaskState if counts.of(state)]
    rows = [(name, *(counts.of(state, [name]) for state in states)) for name in sorted(counts.by_class)]
    if len(rows) > 1:
        rows.append(("all", *(counts.of(state) for state in states)))
    print_table(("class", *(state.value for state in states)), rows)
    if view.progress:
        _print_progress(view)
    if view.rate:
        left = f"; about {in_words(view.seconds_left)} left" if view.seconds_left is not None else ""
        data(f"{view.rate * 60:.3g} tasks a minute{left}.")
    for task_id, reason in list(view.stuck_reasons.items())[:_MOST_NAMED]:
        data(f"{task_id} waits in vain: {reason}")
    if view.stuck > _MOST_NAMED:
        data(f"{view.stuck - _MOST_NAMED:,} more wait in vain. Retry what they need, or cancel them.")
    if view.unreleased:
        which = _named(view.unreleased_ids, view.unreleased)
        data(f"{counted(view.unreleased, 'task')} waiting although all that it needs is done: {which}.")
        data("The next pilot that looks frees it; without any, run pool reap.")
    if view.holders:
        _print_holders(view)


def _print_progress(view: Overview) -> None:
    from batch_pipeline.pool.overview import QUARTILES, WHOLE

    words = [word for word, _ in QUARTILES] + [WHOLE]
    data("Items by the part of their sub-tasks that is done:")
    rows = [
        (word, view.progress[word], _named(view.progress_ids.get(word, ()), view.progress[word]))
        for word in words
        if view.progress.get(word)
    ]
    print_table(("done", "items", "which"), rows)


def _print_holders(view: Overview) -> None:
    now = now_ms()
    rows = [
        (
            one.owner,
            one.held,
            f"{in_words((now - one.heartbeat_at_ms) / 1000)} ago" + (", lease over" if one.is_late else ""),
            one.native_id,
            one.job_state,
            _named(one.ids, one.held),
        )
        for one in view.holders
    ]
    print_table(("pilot", "holds", "heard of", "job", "its state", "which"), rows)


def _named(ids: Sequence[str], count: int) -> str:
    return ", ".join(ids[:_MOST_NAMED]) + (", …" if count > _MOST_NAMED else "")


def _record(call: CommandCall, view: Overview) -> dict[str, Any]:
    from batch_pipeline.pool.task import TaskState

    counts = view.counts
    return {
        "format": 1,
        "pool": url_of(call),
        "total": counts.total,
        "left": max(view.left, 0),
        "states": {state.value: counts.of(state) for state in TaskState},
        "classes": {
            name: {state.value: number for state, number in states.items()} for name, states in counts.by_class.items()
        },
        "items": {state.value: number for state, number in view.items.items()},
        "progress": dict(view.progress),
        "rate_per_second": view.rate,
        "seconds_left": view.seconds_left,
        "waiting_in_vain": view.stuck,
        "waiting_for_nothing": view.unreleased,
        "pilots": [
            {
                "owner": one.owner,
                "native_id": one.native_id,
                "job_state": one.job_state,
                "held": one.held,
                "ids": list(one.ids),
                "heartbeat_at_ms": one.heartbeat_at_ms,
                "late": one.is_late,
            }
            for one in view.holders
        ],
    }


def make(name: str, workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    watch = CommandOption("--watch", "Follow it until nothing moves any more.", is_flag=True)
    return command(name, workflow, argv, status, [watch, *pool_options(), json_option()])
