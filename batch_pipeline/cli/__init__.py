"""The command line: one command a file, stdout for data, stderr for talk, and an exit code that means something.

error_handling   the outermost call: every error becomes sentences and an exit code
group            the verbs, loaded when they are used; `run` when none is given
installation     how to install what is missing
options          options that stand for settings, with their environment variables
call             what a command is called with: settings, store, samples, graph, request
init run plan dag status watch logs cancel width rightsize runs report store prices trace verify release subset
reference doctor ui demo completion  one command each
wings            the verbs `submit`, `config`, `pool`, `deploy` and `serve`, from the folders of their wings
driver_job       `run --driver batch`, and what runs in its job
events notify    `--events`: JSON lines; `--notify`: who is told how it ended
progress         live bars, or plain lines without a terminal
output failures  tables and sentences
prepare          what `run --prepare` makes first
copying          the other store and the progress of `release` and `subset`
complete         names that a shell completes

Many files, and flat on purpose: `batch_pipeline.cli.VERB` is where the verb is, and `group` loads it by that name.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from batch_pipeline.wire.contract import CommandExit

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask


def run_command_line(workflow: type[WorkflowTask] | None, args: Sequence[str] | None = None) -> int:
    """Runs one command of a pipeline, or of the package when there is none, and returns the exit code."""
    if args is None:
        # Imports and syntax trees leave hardly any cycles: looking for them is a tenth of the start of a run.
        gc.set_threshold(20_000)
    try:
        from batch_pipeline.cli.error_handling import guarded

        return guarded(workflow, args)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == __name__.split(".")[0]:
            raise
        from batch_pipeline.cli.installation import install_command

        print(
            f"Error: The Python package {error.name!r} is not installed for {sys.executable}. Use the Python that has"
            f" it, or install it with: {install_command('client')}.",
            file=sys.stderr,
        )
        return CommandExit.USAGE
