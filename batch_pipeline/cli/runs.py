"""`runs`: the history of a store: lists runs, shows one, compares two, exports one as an RO-Crate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import click

from batch_pipeline.cli import complete
from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.options import CommandOption, common_options, json_option
from batch_pipeline.cli.output import data, print_json, print_pairs, print_table, say
from batch_pipeline.cli.wings import runs_by_service, server_option
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidUse
from batch_pipeline.wire.store import NotInStore

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.records.record import RunRecord
    from batch_pipeline.records.registry import Query

#: Lines that are printed at a time.
_LINES: Final = 1000
#: Options that ask for runs, by the query's field; times apart.
_FILTERS: Final = ("dataset", "user", "repository", "commit", "level", "status", "pipeline", "sample")

#: Of the list, a row as `_row` makes it.
_COLUMNS: Final = (
    *("run", "pipeline", "started (UTC)", "took", "vCPU-hours", "cost"),
    *("by", "code", "samples", "jobs", "state", "command"),
)


def runs(call: CommandCall) -> int:
    """Lists the runs of the store, newest first: who began what, when, with which code, and how it ended.

    Given `show RUN` it shows all that is known of one, with --cells every attempt at its cells; given `diff RUN RUN`
    what differs between two; given `export RUN --to FOLDER` (or FILE.zip) it writes one as an RO-Crate. RUN is an id,
    its beginning or end, or `last`.
    """
    word, *names = call.options["what"] or ("list",)
    if word not in _ACTIONS:
        raise InvalidUse(f"There is no `runs {word}`. There are: runs, {', '.join(f'runs {name}' for name in WORDS)}.")
    wanted, act = _ACTIONS[word]
    if len(names) != wanted:
        raise InvalidUse(f"`runs {word}` takes {wanted} run{'s' if wanted != 1 else ''}, not {len(names)}.")
    if word != "list" and any(call.options[name] for name in (*_FILTERS, "since", "until")):
        raise InvalidUse("Options that choose runs go with the list only: runs --user ada.")
    if word != "list" and call.options["server__url"]:
        raise InvalidUse("A service is asked for the list only; it shows a run on its page, /runs/RUN.")
    if word != "show" and call.options["cells"]:
        raise InvalidUse("--cells goes with one run only: runs show RUN --cells.")
    if call.options["format"] and (call.json or not call.options["cells"]):
        raise InvalidUse("--format goes with --cells, and without --json: runs show RUN --cells --format tsv.")
    if word != "export" and call.options["to"]:
        raise InvalidUse("--to goes with an export only: runs export RUN --to FOLDER.")
    return act(call, names)


def _list(call: CommandCall, _: Sequence[str]) -> int:
    from batch_pipeline.records.registry import find_runs

    # Only where the command names it: one that stands in a settings file is there for `submit`.
    if call.options["server__url"]:
        return runs_by_service(call, _filters(call.options))
    records = find_runs(call.store, _query(call.options), most=call.options["number"])
    if call.json:
        print_json([_value(run) for run in records])
        return CommandExit.DONE
    if not records:
        filtered = any(call.options[name] for name in (*_FILTERS, "since", "until"))
        data(f"No run {'that fits ' if filtered else ''}is recorded in {call.store.url}.")
        return CommandExit.DONE
    columns = [
        "run",
        "pipeline",
        "started (UTC)",
        "took",
        "vCPU-hours",
        "cost",
        "by",
        "code",
        "samples",
        "jobs",
        "state",
    ]
    columns.append("command")
    print_table(columns, [_row(run) for run in records])
    return CommandExit.DONE


def _query(options: Mapping[str, Any]) -> Query:
    from batch_pipeline.records.registry import Query, moment

    since, until = options["since"], options["until"]
    return Query(
        **{name: options[name] or "" for name in _FILTERS},
        since=moment(since) if since else None,
        until=moment(until, ends=True) if until else None,
    )


def _filters(options: Mapping[str, Any]) -> dict[str, Any]:
    """The same for a service, which takes days."""
    from batch_pipeline.records.registry import moment

    days = {name: moment(options[name]).date().isoformat() for name in ("since", "until") if options[name]}
    return {name: options[name] for name in _FILTERS} | days | {"most": min(options["number"], 200)}


def _value(run: RunRecord) -> dict[str, Any]:
    from batch_pipeline.records.spent import wall_seconds
    from batch_pipeline.report.records import plain

    value: dict[str, Any] = plain(run)
    return value | {"ended": run.ended, "ok": run.ok, "status": run.status, "wall_seconds": wall_seconds([run])}


def _row(run: RunRecord) -> list[object]:
    from batch_pipeline.records.spent import Spent
    from batch_pipeline.report.run_pages import code_of, state_of
    from batch_pipeline.report.spending import cost_words, hours_words, took_words

    spent = Spent.from_json(run.spent)
    hours = hours_words(spent.vcpu_hours) if run.spent else ""
    took = (took_words([run]), hours, cost_words(spent))
    began = run.started_at[:19].replace("T", " ")
    by = f"{run.user}@{run.host}"
    about = run.description or " ".join(run.argv)
    return [run.run_id, run.pipeline, began, *took, by, code_of(run), run.samples, run.jobs, state_of(run), about]


def _show(call: CommandCall, names: Sequence[str]) -> int:
    from batch_pipeline.records.cell_table import table_of
    from batch_pipeline.records.history import read_events
    from batch_pipeline.records.registry import resolve
    from batch_pipeline.records.spent import spent_by_best
    from batch_pipeline.report.cell_summaries import summaries
    from batch_pipeline.report.records import plain
    from batch_pipeline.report.run_pages import page_of
    from batch_pipeline.run.live import submissions
    from batch_pipeline.run.verdict import read_failed

    run = resolve(call.store, names[0])
    if call.options["cells"]:
        return _show_cells(call, run)
    sent = sorted(submissions(call.store, run.run_id), key=lambda item: item.sent_at)
    events = read_events(call.store, run.run_id)
    try:
        failed = read_failed(call.store, run.run_id)
    except NotInStore:
        failed = []
    table, sentence = table_of(call.store, run)
    run = replace(run, spent=spent_by_best(run, table, call.settings))
    if sentence:
        say(sentence)
    if call.json:
        details = {"jobs_sent": plain(sent), "failed_cells": plain(failed), "events": plain(events)}
        details["cells_ended"] = plain(summaries(table)) if table else None
        print_json(_value(run) | details)
        return CommandExit.DONE
    for section in page_of(run, sent, events, failed, table):
        data(section.title)
        if section.columns:
            print_table(section.columns, section.rows)
        else:
            print_pairs(section.rows)
        data("")
    return CommandExit.DONE


def _show_cells(call: CommandCall, run: RunRecord) -> int:
    """A row an attempt, as a stream."""
    from batch_pipeline.records.cell_table import table_of
    from batch_pipeline.report.attempt_lines import attempt_lines
    from batch_pipeline.run.attempt_rows import attempt_rows

    table, sentence = table_of(call.store, run)
    if sentence:
        say(sentence)
    lines = attempt_lines(
        attempt_rows(call.store, run, table), "json" if call.json else call.options["format"] or "tsv"
    )
    # A write for each of some 100,000 lines takes longer than all else.
    while some := list(islice(lines, _LINES)):
        data("\n".join(some))
    return CommandExit.DONE


def _diff(call: CommandCall, names: Sequence[str]) -> int:
    from batch_pipeline.records.compare import differences
    from batch_pipeline.records.registry import resolve
    from batch_pipeline.report.records import plain

    before, after = (resolve(call.store, name) for name in names)
    changes = differences(call.store, before, after)
    if call.json:
        print_json({"before": before.run_id, "after": after.run_id, "differences": plain(changes)})
    elif not changes:
        data(f"{before.run_id} and {after.run_id} differ in nothing that is recorded.")
    else:
        rows = [[one.about, one.field, one.before, one.after] for one in changes]
        print_table(["what", "field", before.run_id, after.run_id], rows)
    return CommandExit.DONE


def _export(call: CommandCall, names: Sequence[str]) -> int:
    from batch_pipeline.provenance.crate import export
    from batch_pipeline.records.registry import resolve

    if not call.options["to"]:
        raise InvalidUse("Say where: runs export RUN --to FOLDER, or FILE.zip.")
    run = resolve(call.store, names[0])
    exported = export(call.store, run, call.options["to"], results=bool(call.options["results"]))
    if call.json:
        from batch_pipeline.report.records import plain

        print_json(plain(exported))
        return CommandExit.DONE
    data(f"Run {run.run_id} is in {exported.place}: {exported.files:,} files, {exported.size_bytes:,} bytes.")
    if exported.removed:
        say(f"Not in it, as removed after use: {exported.removed:,} files. The records say by which run.")
    if exported.left_out:
        say(f"{exported.left_out:,} cells of the run have no results any more, or not yet.")
    return CommandExit.DONE


_ACTIONS: Final[Mapping[str, tuple[int, Callable[[CommandCall, Sequence[str]], int]]]] = {
    "list": (0, _list),
    "show": (1, _show),
    "diff": (2, _diff),
    "export": (1, _export),
}
WORDS: Final = tuple(word for word in _ACTIONS if word != "list")


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    what = click.Argument(
        ["what"], nargs=-1, metavar="[show|diff|export RUN...]", shell_complete=complete.runs(workflow)
    )
    options = [
        CommandOption("--number", "How many at most.", type=click.IntRange(min=1), default=20, show_default=True),
        CommandOption("--dataset", "Of this dataset."),
        CommandOption("--user", "By this user, or an identity that has this in its ARN."),
        CommandOption("--repository", "By code of this repository: its URL or the end of it.", metavar="URL"),
        CommandOption("--commit", "By this commit: the first characters of its SHA.", metavar="SHA"),
        CommandOption("--level", "At this level of access."),
        CommandOption("--status", "In this state.", type=click.Choice(["live", "done", "failed"])),
        CommandOption("--pipeline", "Of this pipeline: its class, or the name it was given.", metavar="NAME"),
        CommandOption("--sample", "With this sample in the list.", metavar="NAME"),
        CommandOption("--since", "Begun then or later: 2026-11-21, 2026-11-21T16:30, 12h, 7d, 2w.", metavar="TIME"),
        CommandOption("--until", "Begun before; with all of a day.", metavar="TIME"),
        CommandOption("--cells", "With show: a row an attempt at a cell, like a trace file.", is_flag=True),
        CommandOption(
            "--format", "With --cells: how a row is written; by default tsv.", type=click.Choice(["tsv", "jsonl"])
        ),
        CommandOption("--to", "Where to export to.", metavar="FOLDER|FILE.zip"),
        CommandOption(
            "--results/--no-results", "Whether an export has copies of the results, or their URLs.", default=True
        ),
    ]
    return command("runs", workflow, argv, runs, [what, *common_options(), json_option(), server_option(), *options])
