"""`rightsize`: memory and vCPUs that the steps need, from what their cells took."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli import complete
from batch_pipeline.cli.call import CommandCall, command, known
from batch_pipeline.cli.options import (
    CommandOption,
    common_options,
    json_option,
    pipeline_options,
)
from batch_pipeline.cli.output import data, print_json, print_table, say
from batch_pipeline.config import COMMAND_LINE, FILE_NAME, is_of_preset
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.provenance.rightsize import ResourceProposal

#: Shares that `--share` may be; `provenance.rightsize` tells the same.
SHARES = ("50", "90", "95", "99", "100")


#: Options for the plan that `--explain` makes.
_FOR_PLANS = frozenset({"--sample-list-file", "--sources", "--reference"})


def rightsize(call: CommandCall) -> int:
    """Proposes memory and vCPUs of each STEP (default: of all) from the receipts of its cells.

    With --write the proposal goes into the settings file, below [steps.NAME]; without it nothing is changed.

    The table says how many MiB hold 50, 90, 95, 99 and 100 % of the cells, with room. Cells that ran out of memory and
    were never done count as needing twice what they had.

    With --explain it says instead what the cells of one sample ask for and are given (`memory_mb` as a method).
    """
    from batch_pipeline.provenance import rightsize as sizes
    from batch_pipeline.report.tables import counted

    steps = call.options["steps"]
    if sample := call.options.get("explain"):
        return _explain(call, sample, steps)
    if call.options["write"] and not call.has_pipeline:
        raise InvalidUse("--write needs to know the steps. Run it with the pipeline's file: python main.py rightsize.")
    proposals = sizes.rightsize(
        call.store,
        steps=[known(step, call.graph.names, "step") for step in steps] if call.has_pipeline else steps,
        now=_defined(call),
        most=None if call.options["all"] else sizes.MOST,
        share=int(call.options["share"]),
        headroom=call.options["headroom"],
        progress=_progress,
    )
    if not proposals:
        which = f" of {', '.join(steps)}" if steps else ""
        raise InvalidUse(f"No receipt{which} in {call.store.url} tells what a cell took. Run some samples first.")
    changes = _written(call, proposals) if call.options["write"] else None
    if call.json:
        from batch_pipeline.report.records import plain

        record = {"format": 1, "share": int(call.options["share"]), "steps": [plain(one) for one in proposals]}
        print_json(record if changes is None else record | {"file": str(_file(call)), "written": changes})
        return CommandExit.DONE
    _show(proposals)
    if changes is not None:
        _tell_changes(call, changes)
    read, cells = sum(one.cells for one in proposals), sum(one.all_cells for one in proposals)
    if read < cells:
        say(f"From {read:,} of {counted(cells, 'cell')}; --all reads all.")
    return CommandExit.DONE


def _explain(call: CommandCall, sample: str, steps: Sequence[str]) -> int:
    """Shows what each cell of a sample asks for, and what it is given. Reads what `plan` reads."""
    from batch_pipeline.run.sizing import explain_sizes

    request = call.request(plans=True)
    known(sample, request.samples.names, "sample")
    wanted = [known(step, request.graph.names, "step") for step in steps] or list(request.graph.names)
    explained = [each for each in explain_sizes(request, sample) if each.step in wanted]
    if call.json:
        from batch_pipeline.report.records import plain

        print_json(plain(explained))
        return CommandExit.DONE
    for each in explained:
        data(f"{each.step}: {each.sentence}")
    return CommandExit.DONE


def _defined(call: CommandCall) -> dict[str, tuple[int, int]] | None:
    """Step -> vCPUs and MiB as the pipeline says now; without a pipeline the receipts tell."""
    if not call.has_pipeline:
        return None
    from batch_pipeline.backends.definitions import configured_definitions, resources

    definitions = configured_definitions(call.graph, call.settings)
    return {step: resources(definition) for step, definition in definitions.items()}


def _file(call: CommandCall) -> Path:
    return Path(call.options["config"] or FILE_NAME)


def _written(call: CommandCall, proposals: Sequence[ResourceProposal]) -> dict[str, int]:
    """Key -> number, as they were written into the settings file. Raises InvalidUse, InvalidConfig."""
    from batch_pipeline.settings_file import change_numbers

    changes: dict[str, int] = {}
    for one in proposals:
        # A store may have cells of other pipelines too, whose steps this one's settings must not name.
        if one.step not in call.graph.names:
            continue
        # A number would go before the step's own method.
        is_number = "memory_mb" not in call.graph[one.step].by_evidence
        if is_number and one.memory_mb != one.memory_mb_now:
            changes[_key(call, f"steps.{one.step}.memory_mb")] = one.memory_mb
        if one.cpus != one.cpus_now:
            changes[_key(call, f"steps.{one.step}.cpus")] = one.cpus
    if changes:
        change_numbers(_file(call), changes)
    return changes


def _key(call: CommandCall, key: str) -> str:
    """The key in the file that the value is to have: in the chosen preset where that has it."""
    in_preset = is_of_preset(call.settings, key)
    return f"preset.{call.settings.preset}.{key}" if in_preset else key


def _tell_changes(call: CommandCall, changes: Mapping[str, int]) -> None:
    from batch_pipeline.config import place_of_setting

    for key, value in changes.items():
        data(f"Wrote {key} = {value} to {_file(call)}.")
        origin = place_of_setting(call.settings, key)
        if origin.startswith("$") or origin == COMMAND_LINE:
            say(f"{key} was taken from {origin}, which goes before the file. Remove it there.")
    if not changes:
        data("Nothing to write: the steps have what is proposed.")


def _show(proposals: Sequence[ResourceProposal]) -> None:
    from batch_pipeline.report.sizes import rightsize_lines, rightsize_rows

    columns = ["step", "cells", "MiB now", "fit now", *(f"{share} %" for share in SHARES), "propose MiB"]
    print_table([*columns, "vCPUs now", "busy", "propose vCPUs"], rightsize_rows(proposals))
    data("")
    for line in rightsize_lines(proposals):
        data(line)


def _progress(done: int, total: int) -> None:
    """A line that is written over, on a terminal only."""
    if sys.stderr.isatty() and (done == total or done % 50 == 0):
        click.echo(f"\r{done:,} of {total:,} receipts", err=True, nl=done == total)


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    options: list[click.Parameter] = [
        click.Argument(["steps"], nargs=-1, metavar="[STEP]...", shell_complete=complete.steps(workflow)),
        *common_options(),
        CommandOption("--write", "Write the proposal into the settings file.", is_flag=True),
        CommandOption("--all", "Read every receipt, not a thousand a step.", is_flag=True),
        CommandOption(
            "--share",
            "Percent of the cells that the proposal must hold.",
            type=click.Choice(SHARES),
            default="99",
            show_default=True,
        ),
        CommandOption(
            "--headroom",
            "Room above the peaks, as a share of them.",
            type=click.FloatRange(min=0, max=10),
            default=0.2,
            show_default=True,
        ),
        json_option(),
    ]
    if workflow is not None:
        options += [option for option in pipeline_options() if not _FOR_PLANS.isdisjoint(option.opts)]
        options.append(
            CommandOption(
                "--explain",
                "Say for each step what this sample's cell asks for, by what, and what its group is given.",
                metavar="SAMPLE",
                shell_complete=complete.samples(workflow),
            )
        )
    return command("rightsize", workflow, argv, rightsize, options)
