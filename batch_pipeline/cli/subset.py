"""`subset`: copies chosen samples from one store to another, recorded on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from batch_pipeline.cli.call import CommandCall, command, names_in
from batch_pipeline.cli.copying import opened, shown
from batch_pipeline.cli.options import CommandOption, SettingOption, common_options, json_option
from batch_pipeline.cli.output import data, print_json
from batch_pipeline.report.tables import counted
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask

#: A sample's own files, unless told.
FILES: Final = ("{sample}.bam", "{sample}.bam.bai")


def subset(call: CommandCall) -> int:
    """Copies the files of chosen samples from one store to another, and records that in both.

    From production to test, say: for a pipeline to be tried on real data that were chosen. What is there already is
    left alone; a file of the same name with another size is refused, and nothing copied.
    """
    from batch_pipeline.provenance.subset import subset as copied

    options = call.options
    samples = list(dict.fromkeys(name for text in options["samples"] for name in names_in(text)))
    if not samples or not options["to"]:
        raise InvalidUse("Say which samples, and where to: subset --samples A,B --from URL --to URL.")
    source = opened(call, options["source"]) if options["source"] else call.store
    target = opened(call, options["to"], create=True)
    with shown() as on_copied:
        copy = copied(
            source,
            target,
            samples,
            prefix=call.settings.samples.sources,
            patterns=options["files"] or FILES,
            results=bool(options["results"]),
            on_copied=on_copied,
        )
    if call.json:
        from batch_pipeline.report.records import plain

        print_json({"format": 1, "samples": samples, "from": source.url, "to": target.url, **plain(copy)})
        return CommandExit.DONE
    there = f", {copy.there:,} of them there already" if copy.there else ""
    data(f"{counted(copy.files, 'file')} of {counted(len(samples), 'sample')}, {copy.size_bytes:,} bytes{there}.")
    if copy.removed:
        data(f"{counted(copy.removed, 'temporary result')} not copied, as removed after use; their records are.")
    data(f"Recorded in both stores as subset {copy.subset_id}.")
    return CommandExit.DONE


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    options = [
        *common_options(),
        json_option(),
        CommandOption(
            "--samples",
            "These samples: names with commas between, or @FILE; repeatable.",
            multiple=True,
            metavar="NAMES",
        ),
        CommandOption("--from", "Store to copy from; default: the one of --store.", name="source", metavar="URL"),
        CommandOption("--to", "Store to copy to.", metavar="URL"),
        SettingOption("--sources", "samples.sources", "Where the samples' own files lie.", metavar="PREFIX"),
        CommandOption(
            "--files",
            "Name of a sample's file, {sample} in it; repeatable. {sample}.bam and {sample}.bam.bai unless told.",
            multiple=True,
            metavar="PATTERN",
        ),
        CommandOption("--results", "The samples' results and receipts too.", is_flag=True),
    ]
    return command("subset", workflow, argv, subset, options)
