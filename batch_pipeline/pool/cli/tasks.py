"""`pool init`, `import`, `add`, `export`: tasks into the pool, and out of it."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.options import CommandOption, json_option
from batch_pipeline.cli.output import data, print_json, say
from batch_pipeline.pool.cli.call import (
    Duration,
    filter_of,
    filter_options,
    now_ms,
    opened,
    pairs,
    pool_options,
    url_of,
)
from batch_pipeline.report.tables import counted
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidTasks, InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.pool.base import AddReport, PoolStore
    from batch_pipeline.pool.files.exchange import Reading

#: As `pool.files.exchange` has them; a test compares.
FORMATS = ("pyanamo", "csv", "tsv", "jsonl", "picas", "lines")
EXPORTS = ("csv", "tsv", "jsonl", "sqlite")
_MOST_NAMED = 10


def init(call: CommandCall) -> int:
    """Makes a pool where --pool or the settings say; one that is there stays as it is.

    Without --pool it is a SQLite file: in the store, if that is a folder, else in the state folder of this machine.
    """
    with opened(call, create=True) as pool:
        total = pool.counts().total
    if call.json:
        print_json({"format": 1, "pool": url_of(call), "tasks": total})
    else:
        data(f"The pool is {url_of(call)}; it has {counted(total, 'task')}.")
    return CommandExit.DONE


def import_(call: CommandCall) -> int:
    """Adds the tasks of FILE. Idempotent: a task that is there stays as it is, whatever its state.

    All bad rows are told at once, with their lines, and then nothing is added. `-` reads from standard input.
    """
    from batch_pipeline.pool.files.exchange import import_file, on_disk

    file, dry_run = call.options["file"], bool(call.options["dry_run"])
    with ExitStack() as stack:
        path = Path(file) if file != "-" else stack.enter_context(on_disk(sys.stdin.buffer))
        reading = _reading(call.options, path)
        # A pool is made by its first tasks, but not by a look at them.
        pool = stack.enter_context(opened(call, create=True)) if not dry_run else _no_pool()
        imported = import_file(
            pool, path, reading, now_ms=now_ms(), dry_run=dry_run, display_name="" if file != "-" else "stdin"
        )
    for why, number in imported.passed_over.items():
        say(f"{number:,} passed over: {why}.")
    if imported.report is not None:
        return _tell_added(call, imported.report)
    if call.json:
        print_json({"format": 1, "tasks": imported.tasks, "passed_over": dict(imported.passed_over)})
    else:
        data(f"{counted(imported.tasks, 'task')} read, all well; none added.")
    return CommandExit.DONE


def _no_pool() -> PoolStore:
    from batch_pipeline.pool.stores.memory import MemoryStore

    return MemoryStore()


def _reading(options: Mapping[str, Any], path: Path) -> Reading:
    from batch_pipeline.pool.files.exchange import Format, Reading, guessed

    options_of_reading = {
        "delimiter": options["delimiter"],
        "nested_delimiter": options["nested_delimiter"],
        "prefix": options["id_prefix"],
        "program": tuple(shlex.split(options["program"])) if options["program"] else None,
    }
    try:
        kind = Format(options["format"]) if options["format"] else guessed(path)
    except OSError as error:
        raise InvalidUse(f"{path} cannot be read: {error.strerror}.") from error
    named = {name: value for name, value in options_of_reading.items() if value is not None}
    return Reading(format=kind, defaults=_defaults(options), **named)


def add(call: CommandCall) -> int:
    """Adds one task: `pool add ID -- COMMAND…` with its words, or --shell with a line for bash."""
    from batch_pipeline.pool.task import TaskSpec, problems_of

    options = call.options
    spec = TaskSpec(
        id=options["id"],
        command=tuple(options["command"]),
        shell=options["shell"] or "",
        environment=pairs(options["env"], "--env"),
        inputs=pairs(options["input"], "--input"),
        outputs=pairs(options["output"], "--output"),
        after=tuple(options["after"]),
        parent=options["parent"] or "",
        **_defaults(options),
    )
    if problems := list(problems_of(spec)):
        raise InvalidTasks(f"Task {spec.id!r}: {' '.join(problems)}")
    if call.options["dry_run"]:
        data("1 task read, all well; none added.")
        return CommandExit.DONE
    with opened(call, create=True) as pool:
        report = pool.add([spec], now_ms=now_ms())
    return _tell_added(call, report)


def _defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the options say of tasks; what was not given is left out."""
    fields = {
        "resource_class": options["of_class"],
        "priority": options["priority"],
        "most_attempts": options["attempts"],
        "time_limit_seconds": options["time_limit"],
    }
    return {name: value for name, value in fields.items() if value is not None}


def _tell_added(call: CommandCall, report: AddReport) -> int:
    if call.json:
        numbers = {"added": report.added, "unchanged": report.unchanged, "differing": report.differing}
        print_json({"format": 1, **numbers, "differing_ids": list(report.differing_ids)})
    else:
        data(f"{counted(report.added, 'task')} added to {url_of(call)}.")
        if report.unchanged:
            say(f"There already, and left alone: {counted(report.unchanged, 'task')}.")
        if report.differing:
            names = ", ".join(report.differing_ids[:_MOST_NAMED])
            say(f"There with something else asked of them, and left alone: {names}.")
            say("To take the new ones, delete those first: pool delete ID…")
    return CommandExit.CONFLICT if report.differing else CommandExit.DONE


def export(call: CommandCall) -> int:
    """Writes the tasks that are meant to FILE, with states, results and errors; `-` writes to standard output."""
    from batch_pipeline.pool.files.exchange import ExportFormat, export_file, guessed_export

    file, format_name = call.options["file"], call.options["format"]
    if file == "-" and format_name == "sqlite":
        raise InvalidUse("A SQLite file cannot be written to standard output. Name a file.")
    with TemporaryDirectory(prefix="export-") as folder, opened(call) as pool:
        path = Path(folder) / "tasks.jsonl" if file == "-" else Path(file)
        form = ExportFormat(format_name) if format_name else guessed_export(path)
        count = export_file(pool, path, form, wanted=filter_of(call))
        if file == "-":
            with path.open(encoding="utf-8") as written:
                shutil.copyfileobj(written, sys.stdout)
    say(f"{counted(count, 'task')} written{'' if file == '-' else f' to {file}'}.")
    return CommandExit.DONE


def _task_options() -> list[click.Parameter]:
    return [
        CommandOption("--class", "Resource class, of tasks that name none.", metavar="CLASS", name="of_class"),
        CommandOption("--priority", "The higher goes first; default 0.", type=int, metavar="NUMBER"),
        CommandOption("--attempts", "Failures until it has failed; default 1.", type=click.IntRange(1), metavar="N"),
        CommandOption("--time-limit", "How long it may run: 90s, 30m, 4h.", type=Duration(), metavar="TIME"),
        CommandOption("--dry-run", "Check, and add nothing.", is_flag=True),
    ]


def _several(flag: str, help: str, metavar: str) -> CommandOption:
    return CommandOption(flag, help, multiple=True, metavar=metavar)


def make(name: str, workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    options = [*pool_options(), json_option()]
    if name == "init":
        return command(name, workflow, argv, init, options)
    if name == "import":
        return command(name, workflow, argv, import_, [*_import_options(), *_task_options(), *options])
    if name == "add":
        return command(name, workflow, argv, add, [*_add_options(), *_task_options(), *options])
    kind = CommandOption("--format", "Instead of by the file's name.", type=click.Choice(EXPORTS))
    return command(
        name, workflow, argv, export, [click.Argument(["file"]), kind, *filter_options(ids=False), *pool_options()]
    )


def _import_options() -> list[click.Parameter]:
    return [
        click.Argument(["file"]),
        CommandOption("--format", "Instead of by its name and header.", type=click.Choice(FORMATS)),
        CommandOption("--delimiter", "Between columns, instead of PyAnamo's bar, a comma or a tab.", metavar="TEXT"),
        CommandOption("--nested-delimiter", "Between PyAnamo's arguments; default a comma.", metavar="TEXT"),
        CommandOption("--program", "What PiCaS's inputs are for; it gets input and id.", metavar="COMMAND"),
        CommandOption("--id-prefix", "What ids of plain lines begin with; default token_.", metavar="TEXT"),
    ]


def _add_options() -> list[click.Parameter]:
    return [
        click.Argument(["id"]),
        click.Argument(["command"], nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND…]"),
        CommandOption("--shell", "A line for bash instead of a command.", metavar="LINE"),
        _several("--env", "Variable of the command; repeatable.", "NAME=VALUE"),
        _several("--input", "File to bring: $INPUT_PORT is its path; repeatable.", "PORT=KEY|URL"),
        _several("--output", "File to take: written to $OUTPUT_PORT; repeatable.", "PORT=KEY|URL"),
        _several("--after", "Task that must be done before; repeatable.", "ID"),
        CommandOption("--parent", "The item that it is a sub-task of.", metavar="ID"),
    ]
