"""`ui`: Luigi's scheduler on this machine, with its page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.options import CommandOption, common_options
from batch_pipeline.cli.output import data
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.scratch import folder_beside

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask


def ui(call: CommandCall) -> int:
    """Starts Luigi's scheduler (luigid) on this machine and opens its page; prints the address.

    Runs show up there when they are given --scheduler-host 127.0.0.1. It goes on until `ui --stop`.
    """
    from batch_pipeline.luigi_adapter import daemon

    folder = folder_beside(call.settings.embedded.folder, "luigid")
    if call.options["stop"]:
        data("luigid was stopped." if daemon.stop(folder) else "No luigid was started here.")
        return CommandExit.DONE
    url = daemon.start(
        call.options["host"],
        call.options["port"],
        open_browser=not call.options["no_browser"],
        state_folder=folder,
        foreground=call.options["foreground"],
        allow_remote=call.options["allow_remote"],
    )
    data(url)
    return CommandExit.DONE


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
