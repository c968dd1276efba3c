"""`plan`: shows what `run` would do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from batch_pipeline.cli import complete, prepare
from batch_pipeline.cli.call import CommandCall, command
from batch_pipeline.cli.dag import DIAGRAM_FORMATS
from batch_pipeline.cli.driver_job import driver_option
from batch_pipeline.cli.options import (
    CommandOption,
    common_options,
    json_option,
    parameter_options,
    pipeline_options,
    prepare_options,
    selection_options,
    tag_option,
)
from batch_pipeline.cli.output import data, print_json, print_store_calls, print_table, say
from batch_pipeline.pipeline.workflow import tasks_of
from batch_pipeline.wire.contract import CommandExit
from batch_pipeline.wire.errors import InvalidPipeline, InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.config import Settings
    from batch_pipeline.pipeline.plan import Plan, Why
    from batch_pipeline.pipeline.workflow import WorkflowTask
    from batch_pipeline.records.request import Request
    from batch_pipeline.report.estimates import Payload
    from batch_pipeline.report.tables import PlanRow
    from batch_pipeline.run.estimate import Estimate
    from batch_pipeline.run.snapshot import Snapshot

#: Options that print what a diagram has no place for.
_NOT_DRAWN = ("json", "prepare", "payloads", "estimate")
#: Jobs that the table shows before it says how many more there are.
MOST_JOBS = 40


def plan(call: CommandCall) -> int:
    """Shows what run would do: the cells of every step, why they run, and the jobs. Writes nothing.

    Where run would refuse the pipeline's code, it is refused here too.
    """
    from batch_pipeline.run import driver

    _require_one_form(call)
    prepare.require_permission(call)
    request = call.request(plans=True)
    reasons = _preparations(call)
    if reasons and reasons.get(prepare.REFERENCE):
        return CommandExit.DONE
    if call.options["failed"]:
        from batch_pipeline.run.status import only_failed

        narrowed = only_failed(request)
        if narrowed is None:
            data("Nothing to do: no sample has failed.")
            return CommandExit.DONE
        request = narrowed
    snapshot = driver.inspect(request)
    details = _Details(call, request, snapshot)
    if details.code_problems and not call.json:
        # A table of jobs that `run` refuses would hide them.
        raise InvalidPipeline("\n".join(details.code_problems))
    if (folder := request.store.folder) is not None and not folder.is_dir():
        say(f"The store {folder} is not there yet; `run` makes the folder.")
    if call.verbose:
        print_store_calls(dict(snapshot.store_calls))
    if call.options.get("dag"):
        _draw(snapshot, call.options["dag"])
    elif call.json:
        from batch_pipeline.report.records import plan_record

        record = plan_record(snapshot.plan) | {"reference": snapshot.reference, "live_runs": list(snapshot.live_runs)}
        record |= {"preparations": reasons} if reasons is not None else {}
        print_json(record | details.record())
    else:
        for sentence in details.problems:
            say(sentence)
        _tell(snapshot.plan, request.settings, snapshot.live_runs)
        details.tell()
    return CommandExit.FAILED if snapshot.plan.blocked or details.problems else CommandExit.DONE


def _require_one_form(call: CommandCall) -> None:
    if call.options.get("dag") and (others := [name for name in _NOT_DRAWN if call.options[name]]):
        raise InvalidUse(f"--dag and --{others[0]} exclude each other. Give one of them.")


def _draw(snapshot: Snapshot, form: str) -> None:
    from batch_pipeline.report.diagram import diagram_of, diagram_text, plan_states

    diagram = diagram_of(snapshot.plan.graph, plan_states(snapshot.plan), reference=snapshot.reference)
    data(diagram_text(diagram, form).rstrip("\n"))


def _preparations(call: CommandCall) -> Mapping[str, str] | None:
    """Shows what `run --prepare` would make, and returns it; JSON of it alone where no plan follows."""
    if not call.options["prepare"]:
        return None
    reasons = prepare.reasons(call)
    if not call.json:
        prepare.print_reasons(reasons)
    elif reasons.get(prepare.REFERENCE):
        print_json({"preparations": reasons})
    return reasons


class _Details:
    """What `--payloads` and `--estimate` add; nothing is computed that was not asked for."""

    def __init__(self, call: CommandCall, request: Request, snapshot: Snapshot) -> None:
        self.payloads: list[Payload] | None = None
        from batch_pipeline.pipeline.review import code_problems, code_warnings
        from batch_pipeline.run.owners import sharing_problem

        self.code_problems = code_problems(request.graph) if snapshot.plan.jobs else []
        #: What would be refused: the code of the steps, and what AWS would not take.
        self.problems = [*self.code_problems]
        if snapshot.plan.jobs and not request.share_steps:
            steps = {job.step for job in snapshot.plan.jobs}
            self.problems += filter(None, [sharing_problem(request.store, request.graph, steps)])
        self.warnings = code_warnings(request.graph) if snapshot.plan.jobs else []
        self.estimate: Estimate | None = None
        if call.options.get("payloads"):
            from batch_pipeline.backends.limits import plan_problems
            from batch_pipeline.report.estimates import payloads
            from batch_pipeline.run.context import context_of

            context = context_of(request, reference=snapshot.reference)
            self.payloads = list(payloads(snapshot.plan, context))
            self.problems += plan_problems(snapshot.plan, context)
        if call.options.get("estimate") or request.settings.prices.max_cost:
            from batch_pipeline import backends
            from batch_pipeline.run.cost_bound import cost_problem
            from batch_pipeline.run.estimate import estimate

            backend = backends.create(request.settings)
            try:
                if call.options.get("estimate"):
                    self.estimate = estimate(request, snapshot.plan, snapshot.inventory, backend)
                self.problems += filter(None, [cost_problem(request, snapshot.plan, snapshot.inventory, backend, ())])
            finally:
                backend.close()

    def record(self) -> dict[str, Any]:
        """As keys of the plan's JSON."""
        from batch_pipeline.report.estimates import estimate_record
        from batch_pipeline.report.records import plain

        record: dict[str, Any] = {"problems": self.problems} if self.problems else {}
        if self.payloads is not None:
            record |= {"payloads": plain(self.payloads), "problems": self.problems}
        return record | ({"estimate": estimate_record(self.estimate)} if self.estimate is not None else {})

    def tell(self) -> None:
        """As text."""
        from batch_pipeline.report.estimates import ESTIMATE_COLUMNS, estimate_lines, estimate_rows

        for payload in self.payloads or ():
            data(f"\n{payload.line}\n{payload.text}")
        for sentence in self.warnings:
            say(sentence)
        if self.estimate is not None:
            data("")
            if self.estimate.steps:
                print_table(ESTIMATE_COLUMNS, estimate_rows(self.estimate))
            for line in estimate_lines(self.estimate):
                data(line)


def _tell(plan: Plan, settings: Settings, live_runs: Sequence[str]) -> None:
    from batch_pipeline.report.tables import all_done, blocked_lines, counted, plan_notes, plan_rows
    from batch_pipeline.run.widths import width_notes

    rows = [row for row in plan_rows(plan) if row.total]
    total, done = sum(row.total for row in rows), sum(row.done for row in rows)
    if done == total:
        data(all_done(done, total, sum(row.excluded for row in rows)))
        return
    _print_steps(rows)
    if plan.blocked:
        data(f"\n{counted(len(plan.blocked), 'cell')} cannot run:")
        for line in blocked_lines(plan.blocked):
            data(f"  {line}")
    if live_runs:
        say(f"Live: {', '.join(live_runs)}.")
    _tell_conflicts(plan)
    _tell_jobs(plan)
    for note in (*plan_notes(plan), *width_notes(plan, settings)):
        data(f"\n{note}")
    if changed := _changed_sample(plan):
        say(f"What changed: status --explain {changed}, with the same store, list and parameters.")


def _changed_sample(plan: Plan) -> str:
    """A sample with a cell that is to run because something changed, or nothing."""
    from batch_pipeline.pipeline.plan import Why

    return next((sample for step in plan.why for sample, why in _whys(plan, step) if why is Why.CHANGED), "")


def _whys(plan: Plan, step: str) -> Iterator[tuple[str, Why | None]]:
    return zip((sample for sample, _ in plan.cells(step)), plan.why[step], strict=True)


def _print_steps(rows: Sequence[PlanRow]) -> None:
    """One line a step; columns of states that no cell has are left out."""
    shown = [
        name
        for name in ("live", "deferred", "blocked", "skipped", "excluded")
        if any(getattr(row, name) for row in rows)
    ]
    words = {"skipped": "not chosen"}
    print_table(
        ["step", "cells", "done", "to run", "why", *(words.get(name, name) for name in shown)],
        [[row.step, row.total, row.done, row.to_run, row.why, *(getattr(row, name) for name in shown)] for row in rows],
    )


def _tell_conflicts(plan: Plan) -> None:
    from batch_pipeline.report.tables import first_few

    if plan.conflicts:
        runs = ", ".join(dict.fromkeys(conflict.run_id for conflict in plan.conflicts))
        samples = first_few(list(dict.fromkeys(conflict.sample for conflict in plan.conflicts)))
        say(f"Live jobs of {runs} make cells of {samples} in another way. Wait for them, or: cancel {runs}.")


def _tell_jobs(plan: Plan) -> None:
    from batch_pipeline.report.tables import counted, group_rows, job_rows

    header, groups = group_rows(plan)
    if groups:
        data("\nResources by what cells ask for (rightsize --explain SAMPLE):")
        print_table(header, groups)
    jobs = job_rows(plan)
    if not jobs:
        data("\nNothing to submit.")
        return
    data(f"\n{counted(len(jobs), 'SubmitJob call')}:")
    print_table(["job", "size", "starts"], [[job.job, job.size, job.starts] for job in jobs[:MOST_JOBS]])
    if len(jobs) > MOST_JOBS:
        data(f"and {len(jobs) - MOST_JOBS:,} more.")


def make(workflow: type[WorkflowTask] | None, argv: Sequence[str]) -> click.Command:
    """The command."""
    options = [*common_options(), *pipeline_options(), json_option(), *prepare_options()]
    options += [
        tag_option(),
        CommandOption("--dag", "Draw the steps with their cells by state instead.", type=click.Choice(DIAGRAM_FORMATS)),
        driver_option(),
        CommandOption("--payloads", "Print each SubmitJob request as it will be sent, with its size.", is_flag=True),
        CommandOption("--estimate", "Say what it will take: vCPU-hours, GiB-hours, money, time.", is_flag=True),
    ]
    options += selection_options(complete.steps(workflow), complete.samples(workflow))
    if workflow is not None:
        options += parameter_options(tasks_of(workflow), options)
    return command("plan", workflow, argv, plan, options)
