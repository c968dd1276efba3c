"""The command line: one command a file, stdout for data, stderr for talk, and an exit code that means something.

border      the outermost call: every error becomes sentences and an exit code
group       the verbs, loaded when they are used; `run` when none is given
options     options that stand for settings, with their environment variables
call        what a command is called with: settings, store, samples, graph, request
run plan status logs cancel runs reference doctor ui demo completion      one command each
progress    live bars, or plain lines without a terminal
output      tables and sentences
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask


def run_command_line(workflow: type[WorkflowTask] | None, args: Sequence[str] | None = None) -> int:
    """Runs one command of a pipeline, or of the package when there is none, and returns the exit code."""
    from batch_pipeline.cli.border import guarded

    return guarded(workflow, args)
