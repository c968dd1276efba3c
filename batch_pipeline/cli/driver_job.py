"""`run --driver batch`: submits the driver as a job, follows it, and is what runs in that job.

There it is `python -m batch_pipeline.cli.driver_job FILE CLASS OPTION…`: the verb `run` of the pipeline in a file.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch_pipeline.cli import run_command_line
from batch_pipeline.cli.call import CommandCall
from batch_pipeline.cli.options import SettingOption
from batch_pipeline.cli.output import data, print_json, say
from batch_pipeline.wire.contract import CommandExit, Variable
from batch_pipeline.wire.errors import ContractBroken, InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.records.events import Listener, Outcome
    from batch_pipeline.records.request import Request
    from batch_pipeline.run.driver_jobs import LiveDriver


def driver_option() -> click.Option:
    """`--driver`."""
    return SettingOption(
        "--driver",
        "backend.driver",
        "Where the driver is: in this command, or in a job of its own, which goes on without this machine.",
        type=click.Choice(["here", "batch"]),
    )


def run_as_job(call: CommandCall, request: Request) -> int | None:
    """Submits the driver of a run as a job and follows it, unless detached; None: there is nothing for it to do."""
    from batch_pipeline.run.driver import inspect
    from batch_pipeline.run.driver_jobs import LiveDriver
    from batch_pipeline.run.driver_order import order_driver

    snapshot = inspect(request)
    if not snapshot.plan.jobs and not snapshot.live:
        return None
    driver = order_driver(request, snapshot, events=call.events.wanted)
    detach = bool(call.options["detach"])
    if call.json and detach:
        print_json(asdict(driver))
    elif not call.json:
        data(
            f"The driver {driver.run_id} was submitted as job {driver.native_id}. It goes on by itself: see `status`,"
            f" `watch`, `logs --driver {driver.run_id}`; to end it: `cancel {driver.run_id}`."
        )
    if detach:
        return CommandExit.DONE
    return follow_driver(call, LiveDriver(run_id=driver.run_id, native_id=driver.native_id, settings=request.settings))


def follow_driver(call: CommandCall, driver: LiveDriver) -> int:
    """Prints what a driver prints until it has ended, and returns its exit code; Ctrl-C leaves it alone.

    Raises InvalidUse where this machine cannot ask its backend.
    """
    from batch_pipeline import backends
    from batch_pipeline.run.driver_jobs import ended, exit_code_of, log_of, runs_of
    from batch_pipeline.run.interrupts import pause

    if driver.unreachable:
        raise InvalidUse(driver.unreachable)
    shown: dict[str, int] = {}
    with closing(backends.create(driver.settings)) as backend:
        try:
            while True:
                record = ended(call.store, backend, driver.run_id, driver.native_id)
                for key, text in log_of(call.store, driver.run_id).items():
                    end = len(text) if record is not None else text.rfind("\n") + 1
                    _print_log(call, text[shown.get(key, 0) : end])
                    shown[key] = max(end, shown.get(key, 0))
                if record is not None and record.ended:
                    break
                pause(call.settings.watch.poll_seconds)
        except KeyboardInterrupt:
            say(f"The driver {driver.run_id} goes on. Follow it with `watch`, or end it: cancel {driver.run_id}.")
            return CommandExit.INTERRUPTED
    if call.events.wanted:
        _end_events(call, record.problem)
    code = exit_code_of(call.store, driver.run_id)
    if call.json:
        values = {"run_id": driver.run_id, "native_id": driver.native_id, "exit_code": code}
        print_json({**values, "problem": record.problem, "runs": runs_of(call.store, driver.run_id)})
    else:
        say(f"The driver {driver.run_id} {'is done' if record.ok else f'ended so: {record.problem.rstrip(chr(46))}'}.")
    return code


def _print_log(call: CommandCall, text: str) -> None:
    """Prints whole lines of a driver's log but for its events, which go where events go."""
    lines = [line for line in text.splitlines() if not call.events.relay(line)]
    if lines and not call.json:
        data("\n".join(lines))


def _end_events(call: CommandCall, problem: str) -> None:
    """Ends the events of a driver that could not do it itself."""
    if not call.events.latest:
        say("Warning: the driver was ordered without --events and printed none.")
    if problem and call.events.latest not in ("ended", "stopped"):
        call.events.stop("DriverFailed", problem)


def resumed(request: Request, file: str, listener: Listener) -> Outcome:
    """What the driver does in its job. Raises InvalidUse anywhere else."""
    from batch_pipeline.run.driver_bundle import ordered_request
    from batch_pipeline.run.resume import resume

    driver_id = os.environ.get(Variable.PARENT_RUN, "")
    if not driver_id:
        raise InvalidUse("--resume is for the job of a driver. Give the command with --driver batch.")
    return resume(ordered_request(request, Path(file)), listener, driver_id)


def main(argv: list[str]) -> int:
    """Runs the pipeline that is the class of a file. Raises ContractBroken for a file that has none."""
    file, name, *options = argv
    # Like Ctrl-C: the lock is released, and the jobs go on.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return run_command_line(_workflow(Path(file).resolve(), name), ["run", *options])


def _workflow(file: Path, name: str) -> type[WorkflowTask]:
    """The pipeline's class, imported as `python FILE` would."""
    sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ContractBroken(f"{file} cannot be imported. Name it like a module of Python, and run it again.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    workflow: type[WorkflowTask] = getattr(module, name)
    return workflow


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
