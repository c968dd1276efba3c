"""`watch`: follows live jobs to their end; submits nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.options import event_options
from batch_pipeline.cli.status import follow, watch_options

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask


def watch(call: CommandCall) -> int:
    """Follows the live jobs until they end, and tells what came of them; submits nothing.

    Without a pipeline's file it follows what the newest run, or RUN, left in the store: its URL is enough.
    """
    return follow(call)


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    return command("watch", workflow, argv, watch, [*watch_options(workflow), *event_options()])
