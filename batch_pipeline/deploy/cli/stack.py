"""`deploy infrastructure`: shows what would change, asks, does it, and tells the settings that use it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batch_pipeline.cli.output import data, say
from batch_pipeline.config import FILE_NAME
from batch_pipeline.report.tables import counted
from batch_pipeline.wire.errors import InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.cli.call import CommandCall
    from batch_pipeline.deploy.infrastructure import Infrastructure, StackProposal
    from batch_pipeline.deploy.stack_states import Stack


def deploy_infrastructure(call: CommandCall) -> dict[str, Any]:
    """Makes or changes the stack, or shows how; the later parts of this call use what it has."""
    from batch_pipeline.deploy.infrastructure import Infrastructure, deployed_settings

    infrastructure = Infrastructure(call.settings, say=say)
    if call.options["delete"]:
        return _delete(call, infrastructure)
    proposal = infrastructure.propose(_overrides(call), _images(call))
    only_looks = bool(call.options["diff"] or call.options["dry_run"])
    if only_looks:
        infrastructure.discard(proposal)
        stack = proposal.stack
    else:
        _ask_to_apply(call, infrastructure, proposal)
        stack = infrastructure.apply(proposal)
        call.settings = deployed_settings(call.settings, stack)
    _tell(call, infrastructure, proposal, only_looks)
    if stack is not None and not only_looks:
        _tell_settings(call, stack)
    return _as_json(infrastructure, proposal, stack)


def ask(call: CommandCall, question: str) -> None:
    """Asks before something that cannot be taken back. Raises InvalidUse without a terminal, click.Abort for a no."""
    if call.options["yes"]:
        return
    if not sys.stdin.isatty():
        raise InvalidUse(f"{question} There is no terminal to ask on: give --yes.")
    click.confirm(question, abort=True, err=True)


def _overrides(call: CommandCall) -> dict[str, str]:
    parameters = {}
    for pair in call.options["parameter"]:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidUse(f"--parameter {pair} is not NAME=VALUE.")
        parameters[name] = value
    return parameters


def _images(call: CommandCall) -> list[str]:
    """Names of the images that the pipeline has: the folders of `dockerfiles/`."""
    if not call.has_pipeline:
        return []
    from batch_pipeline.pipeline.images import FOLDER

    return sorted(folder.parent.name for folder in (call.graph.root / FOLDER).glob("*/Dockerfile"))


def _ask_to_apply(call: CommandCall, infrastructure: Infrastructure, proposal: StackProposal) -> None:
    if not proposal.changes_something:
        return
    for change in proposal.change_set.changes:
        say(f"  {change.sentence}")
    kind = "Change" if proposal.stack else "Make"
    try:
        ask(call, f"{kind} stack {infrastructure.name} so ({counted(len(proposal.change_set.changes), 'resource')})?")
    except (InvalidUse, click.Abort, KeyboardInterrupt):
        infrastructure.discard(proposal)
        raise


def _delete(call: CommandCall, infrastructure: Infrastructure) -> dict[str, Any]:
    stack = infrastructure.find()
    record = {"stack": infrastructure.name, "status": "absent"}
    if stack is None:
        _data(call, f"There is no stack {infrastructure.name}.")
        return record
    bucket = stack.parameters.get("BucketName", "")
    if call.options["dry_run"] or call.options["diff"]:
        _data(call, f"Stack {stack.name} would be deleted; bucket {bucket} would stay.")
        return {**record, "status": stack.status}
    ask(call, f"Delete stack {stack.name} with its queues, live jobs, images and logs? Bucket {bucket} stays.")
    infrastructure.delete(stack)
    _data(call, f"Stack {stack.name} is deleted. Bucket {bucket} is kept.")
    return {**record, "bucket": bucket}


def _tell(call: CommandCall, infrastructure: Infrastructure, proposal: StackProposal, only_looks: bool) -> None:
    name = infrastructure.name
    if not proposal.changes_something:
        _data(call, f"Stack {name} is up to date.")
        return
    if not only_looks:
        _data(call, f"Stack {name} is {'changed' if proposal.stack else 'made'}.")
        return
    for line in proposal.template_diff:
        _data(call, line)
    for parameter, (before, after) in proposal.parameters.items():
        _data(call, f"parameter {parameter}: {before or '(none)'} -> {after or '(none)'}")
    for change in proposal.change_set.changes:
        _data(call, change.sentence)
    _data(call, f"Stack {name} would be {'changed' if proposal.stack else 'made'}; nothing was done.")


def _tell_settings(call: CommandCall, stack: Stack) -> None:
    from batch_pipeline.deploy.infrastructure import settings_text

    text = settings_text(stack, call.settings)
    file = Path(FILE_NAME)
    if not call.options["write_settings"]:
        _data(call, f"\nSettings for {FILE_NAME}:\n\n{text}")
    elif file.exists():
        say(f"{file.absolute()} is there already and stays as it is. What it should have:")
        _data(call, text)
    else:
        file.write_text(text, encoding="utf-8")
        _data(call, f"{file.absolute()} is written.")


def _data(call: CommandCall, text: str) -> None:
    if not call.json:
        data(text)


def _as_json(infrastructure: Infrastructure, proposal: StackProposal, stack: Stack | None) -> dict[str, Any]:
    return {
        "stack": infrastructure.name,
        "status": stack.status if stack else "absent",
        "changes": [
            {"action": change.action, "resource": change.resource, "type": change.kind}
            for change in proposal.change_set.changes
        ],
        "parameters": {name: {"from": before, "to": after} for name, (before, after) in proposal.parameters.items()},
        "template_diff": list(proposal.template_diff),
        "outputs": dict(stack.outputs) if stack else {},
    }
