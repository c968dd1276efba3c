"""`reference`: builds the files that every sample shares, with the pipeline's own builder step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.options import (
    CommandOption,
    SettingOption,
    common_options,
    json_option,
    parameter_options,
    run_options,
    yes_option,
)
from batch_pipeline.cli.output import data, print_json, say
from batch_pipeline.cli.run import finish, watched
from batch_pipeline.pipeline.samples import SampleList
from batch_pipeline.pipeline.step import Input, Parameter
from batch_pipeline.pipeline.workflow import REFERENCE_TASK, Task
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidPipeline, InvalidSampleList, InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.pipeline.step import Step
    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.records.events import Listener, Outcome


def reference(call: CommandCall) -> int:
    """Builds the reference NAME from the files given, once, and keeps it in the store; without NAME lists them.

    Steps then read it with --reference NAME, or by themselves when it is the only one.
    """
    name = call.options["name"]
    if name is None:
        return _list(call)
    builder = call.workflow.reference_builder
    if builder is None:
        raise InvalidPipeline(
            f"{call.workflow.__name__} builds no references. Put the files under references/{name}/ in the store, or"
            " name a reference_builder in the pipeline."
        )
    try:
        SampleList.of([name])
    except InvalidSampleList as error:
        raise InvalidUse(f"{name!r} cannot be a reference's name: letters, digits and . _ + = @ - only.") from error
    outcome = watched(call, lambda listener: build(call, builder, name, listener))
    code = finish(call, outcome)
    if code == CommandExit.DONE:
        _print_warning(call, name)
    return code


def build(call: CommandCall, builder: type[Step], name: str, listener: Listener) -> Outcome:
    """Builds one reference from the options that are named like the builder's ports."""
    from batch_pipeline.run.reference import build_reference

    given = {port: call.options[f"file_{port}"] for port in builder.declared(Input) if call.options[f"file_{port}"]}
    files = {**call.settings.reference_files, **given}
    require_inputs(builder, files)
    return build_reference(
        call.workflow,
        call.settings,
        call.new_store,
        name,
        files,
        listener,
        params=builder_params(call),
        force=bool(call.options["force"]),
        argv=call.argv,
    )


def require_inputs(builder: type[Step], files: Iterable[str]) -> None:
    """Raises InvalidUse where one of the files is of no input of the reference builder."""
    declared = builder.declared(Input)
    if unknown := sorted(set(files) - set(declared)):
        raise InvalidUse(
            f"{builder.__name__} has no input {unknown[0]!r}; it has: {', '.join(declared)}. Correct"
            " --reference-file, or reference_files in the settings."
        )


def builder_params(call: CommandCall) -> dict[str, Any]:
    """The settings' parameters that the pipeline's reference builder has."""
    builder = call.workflow.reference_builder
    known = builder.declared(Parameter) if builder is not None else {}
    return {
        key: value for key, value in call.settings.params.items() if key.removeprefix(f"{REFERENCE_TASK}.") in known
    }


def _print_warning(call: CommandCall, name: str) -> None:
    """Prints what the builder noted as `warning` in the receipt of a reference that is there."""
    from batch_pipeline.records.results import receipt_of

    receipt = receipt_of(call.store, REFERENCE_TASK, name)
    if receipt is not None and (warning := receipt.metrics.get("warning")):
        say(f"Warning: {warning}")


def _list(call: CommandCall) -> int:
    from batch_pipeline.wire import layout

    names = sorted(call.store.folders(layout.REFERENCES))
    if call.json:
        print_json(names)
        return CommandExit.DONE
    for name in names:
        data(name)
    if not names:
        data(f"No reference is in {call.store.url}.")
    return CommandExit.DONE


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    options: list[click.Parameter] = [
        click.Argument(["name"], required=False),
        *common_options(),
        SettingOption("--queue", "backend.queue", "Job queue."),
        *run_options(),
        json_option(),
        yes_option(),
        CommandOption("--force", "Build it again though it is there.", is_flag=True),
    ]
    builder = workflow.reference_builder if workflow is not None else None
    if builder is not None:
        options += [_file_option(port, item.help) for port, item in builder.declared(Input).items()]
        options += parameter_options({REFERENCE_TASK: Task(REFERENCE_TASK, builder)}, options)
    return command("reference", workflow, argv, reference, options)


def _file_option(port: str, help: str) -> click.Option:
    flag = "--" + port.replace("_", "-")
    return CommandOption(flag, name=f"file_{port}", help=help or f"File for {port}.", metavar="FILE|URL")
