"""`verify`: reads results again and compares them with their receipts."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.options import CommandOption, common_options, json_option
from batch_pipeline.cli.output import data, print_json
from batch_pipeline.report.tables import counted
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.provenance.verify import Checked, Promise


def verify(call: CommandCall) -> int:
    """Reads results again and compares size and SHA-256 with what their receipts say.

    WHAT is a run (an id, its beginning or end, or `last`), a file or folder of results, or a release; with --all every
    file that a receipt vouches for. Ends with 1 when a file is not what it was, and names it. With --repair its cell is
    not done any more, and the next run makes it again.
    """
    from batch_pipeline.provenance.verify import repair
    from batch_pipeline.provenance.verify import verify as verified

    promises = _promises(call)
    bad: list[Checked] = []
    removed: list[Checked] = []
    files = size_bytes = 0
    total = len(promises) if isinstance(promises, list) else None
    for checked in _shown(verified(call.store, promises), total):
        if checked.removed:
            removed.append(checked)
            continue
        files, size_bytes = files + 1, size_bytes + checked.size_bytes
        if checked.problem:
            bad.append(checked)
            if not call.json:
                data(f"{checked.promise.key}: {checked.problem}")
    repaired = repair(call.store, bad) if call.options["repair"] else []
    if call.json:
        problems = [{"file": one.promise.key, "problem": one.problem, "witness": one.promise.witness} for one in bad]
        done: dict[str, object] = {"repaired": repaired} if call.options["repair"] else {}
        done |= {"removed": [{"file": one.promise.key, "removed": one.removed} for one in removed]}
        print_json({"format": 1, "ok": not bad, "files": files, "size_bytes": size_bytes, "problems": problems} | done)
    elif bad:
        data(f"{counted(len(bad), 'file')} of {files:,} {'is' if len(bad) == 1 else 'are'} not what the receipts say.")
        if call.options["repair"]:
            data(f"{counted(len(repaired), 'cell')} will be made again by the next run.")
    else:
        data(f"{counted(files, 'file')}, {size_bytes:,} bytes: as the receipts say.")
    if not call.json:
        for words, number in Counter(one.removed for one in removed).items():
            data(f"{counted(number, 'file')} {words}.")
    return CommandExit.FAILED if bad else CommandExit.DONE


def _promises(call: CommandCall) -> Iterable[Promise]:
    from batch_pipeline.provenance.trace import key_of
    from batch_pipeline.provenance.verify import all_promises, promises_below, promises_of_run
    from batch_pipeline.records.registry import resolve

    what = call.options["what"]
    if bool(what) == bool(call.options["all"]):
        raise InvalidUse("Say what to verify: a run, a file or folder of results, or --all.")
    if not what:
        return all_promises(call.store)
    if "/" in what or what in ("results", "cohort") or Path(what).exists():
        return promises_below(call.store, key_of(call.store, what))
    return promises_of_run(call.store, resolve(call.store, what))


def _shown(results: Iterable[Checked], total: int | None) -> Iterator[Checked]:
    """The same, with a bar on a terminal; None: how many they are is not known before."""
    if not sys.stderr.isatty():
        yield from results
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(results, "Verifying", total=total, console=Console(stderr=True), transient=True)


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    options = [
        click.Argument(["what"], required=False, metavar="[RUN|PATH]"),
        *common_options(),
        json_option(),
        CommandOption("--all", "Every file that a receipt vouches for.", is_flag=True),
        CommandOption("--repair", "Have the next run make again what is not as its receipt says.", is_flag=True),
    ]
    return command("verify", workflow, argv, verify, options)
