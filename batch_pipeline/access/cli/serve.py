"""`serve`: the service that starts runs for others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.installation import install_command
from batch_pipeline.cli.options import CommandOption, SettingOption
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import NotReady

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask


def serve(call: CommandCall) -> int:
    """Starts runs for others, by the policies of the datasets, and shows what ran; listens until it is stopped.

    Who asks is known by an identity token of the issuer that the settings name. Without one it starts only with
    --insecure-user, for a developer's own machine.
    """
    try:
        from batch_pipeline.access.service.serve import serve as listen
    except ModuleNotFoundError as error:
        raise NotReady(
            f"The service needs {error.name}, which is not installed. Install it with: {install_command('server')}."
        ) from error
    listen(call.settings, insecure_user=call.options["insecure_user"] or "")
    return CommandExit.DONE


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    options: list[click.Parameter] = [
        SettingOption("--host", "server.host", "Address to listen on.", metavar="ADDRESS"),
        SettingOption("--port", "server.port", "Port to listen on.", metavar="PORT"),
        CommandOption("--insecure-user", "Require no token: every user is NAME. On this machine only.", metavar="NAME"),
        SettingOption(
            "--backend", "backend.name", "Where jobs run.", type=click.Choice(["embedded", "aws"]), show_choices=True
        ),
        CommandOption("--config", "Settings file instead of ./batch_pipeline.toml.", metavar="FILE"),
        CommandOption("--verbose", "Say more: each decision as a log line, and tracebacks.", is_flag=True),
        CommandOption("--log-file", "Append log lines to this file.", metavar="FILE"),
    ]
    return command("serve", workflow, argv, serve, options)
