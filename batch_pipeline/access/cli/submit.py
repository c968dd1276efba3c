"""`submit`: runs a script of reviewed code on a dataset, as a driver job, if the gate lets it through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from batch_pipeline.access.cli.by_service import server_option, submit_by_service
from batch_pipeline.access.cli.submit_options import submit_options, submit_request_of
from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.options import CommandOption
from batch_pipeline.cli.output import data, print_json, say
from batch_pipeline.run.interrupts import pause
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import Refused

if TYPE_CHECKING:
    from batch_pipeline.access.gate import Grant
    from batch_pipeline.access.request import SubmitRequest
    from batch_pipeline.backends.base import JobObserver
    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.run.driver_jobs import SubmittedDriver


def submit(call: CommandCall) -> int:
    """Runs SCRIPT on a dataset: the commit of the working directory, or one that is named, in a driver job.

    A gate decides first whether it may, by the dataset's policy: what is dirty, not merged, in another image or by
    another user is refused above level test. Everything behind SCRIPT is the script's. Ends with 2 when it is refused.
    """
    try:
        return (submit_by_service if call.settings.server.url else _submit)(call, submit_request_of(call))
    except Refused as error:
        if not call.json:
            raise
        print_json({"status": error.status, "problems": [problem.to_json() for problem in error.problems]})
        return CommandExit.USAGE


def _submit(call: CommandCall, request: SubmitRequest) -> int:
    """Decides and submits on this machine, with the AWS identity of who asks."""
    from batch_pipeline import backends
    from batch_pipeline.access.admission import admit
    from batch_pipeline.access.admission_context import admission_context_of, identity_of
    from batch_pipeline.access.launching import launch

    backend = backends.create(call.settings)
    try:
        grant = admit(request, identity_of(backend), admission_context_of(call.settings, backend))
        if call.options["dry_run"]:
            _print_grant(call, grant)
            return CommandExit.DONE
        driver = launch(grant, call.settings, backend, argv=call.argv)
        sentence = f"Run {driver.run_id} was submitted as job {driver.native_id}; it writes to {driver.output}."
        if call.json and not call.options["wait"]:
            print_json(asdict(driver))
        elif not call.json:
            data(sentence)
        return _follow(call, backend, driver) if call.options["wait"] else CommandExit.DONE
    finally:
        backend.close()


def _print_grant(call: CommandCall, grant: Grant) -> None:
    """What would be submitted, for `--dry-run`."""
    values = {
        "dataset": grant.dataset,
        "access_level": grant.level.value,
        "identity": grant.identity.name,
        "store": grant.store,
        "output": grant.output,
        "queue": grant.queue,
        "job_role": grant.job_role,
        "image": grant.image,
        "repository": grant.repository,
        "commit": grant.commit,
        "tree": grant.tree,
        "submodules": {item.path: item.commit for item in grant.submodules},
        "cwd": grant.cwd,
        "script": list(grant.script),
        "policy_sha256": grant.policy_sha256,
    }
    if call.json:
        print_json(values)
        return
    data("The gate lets this run through; nothing was submitted.")
    for name, value in values.items():
        data(f"  {name.replace('_', ' '):<14} {' '.join(value) if isinstance(value, list) else value or '-'}")


def _follow(call: CommandCall, backend: JobObserver, driver: SubmittedDriver) -> int:
    """Prints the driver's log as it grows, until the run has ended; the exit code is 1 when the script failed."""
    from batch_pipeline.access.launching import store_of
    from batch_pipeline.run.driver_jobs import ended, log_of

    store = store_of(driver.store, call.settings)
    shown: dict[str, int] = {}
    try:
        while True:
            record = ended(store, backend, driver.run_id, driver.native_id)
            for key, text in log_of(store, driver.run_id).items():
                if len(text) > shown.get(key, 0) and not call.json:
                    click.echo(text[shown.get(key, 0) :], nl=False)
                shown[key] = len(text)
            if record is not None:
                break
            pause(call.settings.watch.poll_seconds)
    except KeyboardInterrupt:
        say(f"Run {driver.run_id} goes on.")
        raise
    if call.json:
        print_json({**asdict(driver), "status": record.status, "problem": record.problem})
    else:
        how = "is done" if record.ok else f"failed: {record.problem.rstrip('.')}"
        say(f"Run {driver.run_id} {how}.")
    return CommandExit.DONE if record.ok else CommandExit.FAILED


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    options = [
        *submit_options(),
        server_option(),
        CommandOption("--dry-run", "Ask the gate, and submit nothing.", is_flag=True),
        CommandOption("--wait", "Follow the run to its end, and end with 1 when its script failed.", is_flag=True),
    ]
    made = command("submit", workflow, argv, submit, options)
    made.allow_interspersed_args = False
    return made
