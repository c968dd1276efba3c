"""`dag`: draws the pipeline's DAG, as Mermaid, in Graphviz's language, or as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.options import CommandOption, SettingOption, common_options, parameter_options
from batch_pipeline.cli.output import data, say, write_file
from batch_pipeline.pipeline.workflow import tasks_of
from batch_pipeline.wire.contract import CommandExit

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask

#: Forms of `report.diagram.diagram_text`.
DIAGRAM_FORMATS: Final = ("mermaid", "dot", "svg")


def dag(call: CommandCall) -> int:
    """Draws the pipeline: sources, reference, steps and results, joined by their ports. Opens no store.

    A step with a job a sample has a double frame (in SVG, several cards); dashed lines are alternatives and what comes
    from a step with a condition. `plan --dag` adds the number of cells by state.
    """
    from batch_pipeline.report.diagram import diagram_of, diagram_text

    diagram = diagram_of(call.graph, reference=call.settings.pipeline.reference)
    text = diagram_text(diagram, call.options["format"])
    if not call.options["output"]:
        data(text.rstrip("\n"))
        return CommandExit.DONE
    write_file(Path(call.options["output"]), text)
    say(f"The diagram is in {call.options['output']}.")
    return CommandExit.DONE


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    options = [
        *common_options(),
        SettingOption("--pipeline-name", "pipeline.name", "Name of the diagram.", default_text="the name of the class"),
        SettingOption("--reference", "pipeline.reference", "Name of the reference that steps read."),
        CommandOption(
            "--format", "How it is written.", type=click.Choice(DIAGRAM_FORMATS), default="mermaid", show_default=True
        ),
        CommandOption("--output", "File to write instead of stdout.", short="-o", metavar="FILE"),
    ]
    if workflow is not None:
        options += parameter_options(tasks_of(workflow), options)
    return command("dag", workflow, argv, dag, options)
