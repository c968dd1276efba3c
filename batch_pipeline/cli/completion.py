"""`completion`: the script that makes a shell complete verbs, options and names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from click.shell_completion import get_completion_class

from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.error_handling import program
from batch_pipeline.cli.output import data
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""

    def completion(call: CommandCall) -> int:
        """Prints the completion script of SHELL.

        bash: eval "$(./main.py completion bash)" in ~/.bashrc; zsh likewise. fish: ./main.py completion fish >
        ~/.config/fish/completions/main.py.fish. The pipeline's file must be executable and called by its name.
        """
        name = program(workflow)
        made = get_completion_class(call.options["shell"])
        if made is None:
            raise InvalidUse(f"There is no completion for {call.options['shell']}.")
        variable = f"_{name}_COMPLETE".replace("-", "_").replace(".", "_").upper()
        data(made(click.Group(), {}, name, variable).source())
        return CommandExit.DONE

    shell = click.Argument(["shell"], type=click.Choice(["bash", "zsh", "fish"]))
    return command("completion", workflow, argv, completion, [shell])
