"""What a shell may complete besides verbs and options: steps, samples, runs. Silent when it cannot know."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from batch_pipeline.cli.call import CommandCall
from batch_pipeline.wire.errors import BatchPipelineError

if TYPE_CHECKING:
    from batch_pipeline.cli.options import Completer
    from batch_pipeline.pipeline.workflow import WorkflowTask

#: More than these a shell would not show.
MOST = 200


def steps(workflow: type[WorkflowTask] | None) -> Completer:
    """Names of the pipeline's steps."""
    return _completer(workflow, lambda call: call.graph.names)


def samples(workflow: type[WorkflowTask] | None) -> Completer:
    """Names in the sample list, when it is a local file."""
    return _completer(workflow, _samples)


def runs(workflow: type[WorkflowTask] | None) -> Completer:
    """Ids of the runs in a store that is a folder; another one is not asked while somebody types."""
    return _completer(workflow, _runs)


def _completer(workflow: type[WorkflowTask] | None, names: Callable[[CommandCall], Iterable[str]]) -> Completer:
    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            matching: Sequence[str] = [
                name for name in names(CommandCall(workflow, (), ctx.params)) if name.startswith(incomplete)
            ]
        except (BatchPipelineError, click.ClickException):
            return []
        return [CompletionItem(name) for name in matching[:MOST]]

    return complete


def _samples(call: CommandCall) -> Iterable[str]:
    return call.samples.names if Path(call.settings.samples.file).is_file() else ()


def _runs(call: CommandCall) -> Iterable[str]:
    folder = call.store.path_of("runs")
    return sorted(os.listdir(folder), reverse=True) if folder is not None and folder.is_dir() else ()
