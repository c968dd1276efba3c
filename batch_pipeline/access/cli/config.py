"""`config`: prints the configuration that a driver's script would get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from batch_pipeline.access.cli.submit_options import submit_options, submit_request_of
from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.output import data, print_json
from batch_pipeline.wire.contract import CommandExit

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask


def config(call: CommandCall) -> int:
    """Prints the merged TOML that the script of `submit`, asked the same, would get. Submits and writes nothing.

    The policy and the form of what is asked are checked as there; repository and registry are not asked.
    """
    from batch_pipeline import backends
    from batch_pipeline.access.admission_context import identity_of
    from batch_pipeline.access.configuration import previewed_config
    from batch_pipeline.access.gate import precheck
    from batch_pipeline.access.policy import read_policy
    from batch_pipeline.records.toml import to_toml

    request = replace(submit_request_of(call, confirm=False), confirmed=True)
    backend = backends.create(call.settings)
    try:
        identity = identity_of(backend)
    finally:
        backend.close()
    policy = read_policy(call.settings.access.policies, request.dataset)
    precheck(request, policy, identity)
    value = previewed_config(request, policy, identity)
    print_json(value) if call.json else data(to_toml(value).rstrip())
    return CommandExit.DONE


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    made = command("config", workflow, argv, config, submit_options())
    made.allow_interspersed_args = False
    return made
