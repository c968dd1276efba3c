"""Handles the errors of the command line: each ends here as sentences and an exit code."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

import batch_pipeline
from batch_pipeline.run.interrupts import listen
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import BatchPipelineError

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask


def guarded(workflow: type[WorkflowTask] | None, args: Sequence[str] | None) -> int:
    """Runs the command line and returns the exit code. Raises ModuleNotFoundError for a package that is missing."""
    argv = list(sys.argv[1:] if args is None else args)
    listen()
    try:
        return _main(workflow, argv)
    except click.UsageError as error:
        error.show()
        return CommandExit.USAGE
    except BatchPipelineError as error:
        click.echo(f"Error: {error.message}", err=True)
        _show_traceback(argv)
        return _exit_code(error)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        return CommandExit.INTERRUPTED
    except ModuleNotFoundError:
        raise
    # One of the few places that catch everything: a user must learn whose error it is.
    except Exception as error:
        sentence, code = _foreign(error, workflow)
        click.echo(sentence, err=True)
        _show_traceback(argv)
        return code


def _main(workflow: type[WorkflowTask] | None, argv: list[str]) -> int:
    from batch_pipeline.cli.group import Verbs

    result = Verbs(workflow, argv).main(args=argv, prog_name=program(workflow), standalone_mode=False)
    return int(result or CommandExit.DONE)


def program(workflow: type[WorkflowTask] | None) -> str:
    """How the program is called in messages: `main.py`, `batch-pipeline`."""
    return "batch-pipeline" if workflow is None else os.path.basename(sys.argv[0]) or "main.py"


def _exit_code(error: BatchPipelineError) -> int:
    """The error's code; those of a container mean nothing here."""
    known = {int(code) for code in CommandExit}
    return int(error.exit_code) if int(error.exit_code) in known else CommandExit.FAILED


def _show_traceback(argv: Sequence[str]) -> None:
    if "--verbose" in argv:
        click.echo(traceback.format_exc(), err=True)


def _foreign(error: Exception, workflow: type[WorkflowTask] | None) -> tuple[str, int]:
    """Sentence and exit code for an error of another kind: the pipeline's own, the machine's, or a defect."""
    summary = str(error).split("\n", 1)[0]
    if place := _in_pipeline(error, workflow):
        return f"Error: {place}: {type(error).__name__}: {summary}\nCorrect the pipeline there.", CommandExit.USAGE
    if isinstance(error, OSError):
        file = f"{error.filename}: " if error.filename else ""
        sentence = f"Error: {file}{error.strerror or summary}. Check the path, its rights and the space on its disk."
        return sentence, CommandExit.FAILED
    return _defect(error, summary), CommandExit.FAILED


def _in_pipeline(error: Exception, workflow: type[WorkflowTask] | None) -> str:
    """The last line of the pipeline's own code on the way to an error; empty: none was."""
    file = getattr(sys.modules[workflow.__module__], "__file__", None) if workflow else None
    if file is None:
        return ""
    root, others = Path(file).resolve().parent, (Path(batch_pipeline.__file__).parent, Path(sys.prefix).resolve())
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = Path(frame.f_code.co_filename)
        if (
            path.is_absolute()
            and path.resolve().is_relative_to(root)
            and not any(map(path.resolve().is_relative_to, others))
        ):
            place = f"{path}, line {line}, in {frame.f_code.co_name}"
    return place


def _defect(error: Exception, summary: str) -> str:
    handle, path = tempfile.mkstemp(prefix="batch_pipeline-", suffix="-traceback.txt")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(traceback.format_exc())
    return (
        f"Error: {type(error).__name__}: {summary}\n"
        f"This is a defect of batch_pipeline, not of your input. Please report it with the traceback in {path}."
    )
