"""`ui`: Luigi's scheduler on this machine, with its page."""

from __future__ import annotations

import os
import subprocess
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.options import CommandOption, common_options
from batch_pipeline.cli.output import data, say
from batch_pipeline.wire.contract import CommandExit

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask


def ui(call: CommandCall) -> int:
    """Starts Luigi's scheduler (luigid) on this machine and opens its page; prints the address.

    Runs of this user on this machine show up there, those that began before too, as long as their command follows them;
    runs elsewhere when they are given --scheduler-host. It goes on until `ui --stop`.
    """
    from batch_pipeline.luigi_adapter import daemon

    folder = daemon.folder_of(call.settings.embedded.folder)
    if call.options["stop"]:
        data("luigid was stopped." if daemon.stop(folder) else "No luigid was started here.")
        return CommandExit.DONE
    foreground = call.options["foreground"]
    url, process = daemon.start(
        call.options["host"],
        port=call.options["port"],
        state_folder=folder,
        foreground=foreground,
        remote=call.options["allow_remote"],
    )
    where = f"runs at {url} (process {process.pid}, log {folder / 'luigid.log'})" if process else ""
    with _attending(process if foreground else None):
        say(f"luigid {where or f'already runs at {url}'}")
        say("`report --watch` writes a page about a run that goes: all of its cells, failures, times and costs.")
        # Without a display webbrowser would fall back on one that takes the terminal.
        if not call.options["no_browser"] and {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
            webbrowser.open(url)
    if process and foreground:
        daemon.stop(folder)
    data(url)
    return CommandExit.DONE


@contextmanager
def _attending(process: subprocess.Popen[bytes] | None) -> Iterator[None]:
    """Waits at last until a process has ended, if there is one; Ctrl-C ends it."""
    try:
        yield
        if process:
            process.wait()
    except KeyboardInterrupt:
        if process is None:
            raise
        process.terminate()
        process.wait()


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    options = [
        CommandOption("--host", "Address to listen on.", default="127.0.0.1", show_default=True),
        CommandOption("--port", "Port to listen on.", type=click.IntRange(1, 65535), default=8082, show_default=True),
        CommandOption("--no-browser", "Do not open the page.", is_flag=True),
        CommandOption("--foreground", "Stay until Ctrl-C.", is_flag=True),
        CommandOption("--allow-remote", "Let other machines reach it; luigid knows no passwords.", is_flag=True),
        CommandOption("--stop", "Stop it.", is_flag=True),
    ]
    return command("ui", workflow, argv, ui, [*common_options(), *options])
