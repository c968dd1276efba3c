"""What `--prepare` makes before a run, and what `plan --prepare` shows of it.

A reference is built by the core; images, job definitions and code are the deployment's, whose wing describes them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from batch_pipeline.cli.output import data, print_table, say
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.errors import DeploymentFailed, InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.cli.call import CommandCall
    from batch_pipeline.luigi_adapter.preparer import Preparer
    from batch_pipeline.records.events import Listener
    from batch_pipeline.records.preparation import Preparation
    from batch_pipeline.wire.store import Store

#: Name of the preparation that builds a reference.
REFERENCE = "reference"


def require_permission(call: CommandCall) -> None:
    """Raises InvalidUse for options that do not go together, and in a driver job of `submit`, which deploys nothing."""
    if not call.options["prepare"]:
        if call.options["reference_file"]:
            raise InvalidUse("--reference-file goes with --prepare only, which builds the reference. Give both.")
        return
    if level := os.environ.get(Variable.ACCESS_LEVEL):
        raise InvalidUse(
            f"--prepare is not allowed in a driver job (access level {level}): reviewed code runs on what was deployed"
            " before. Drop --prepare; `deploy` and `reference` are for a user with the rights to deploy."
        )


def prepare(call: CommandCall, listener: Listener) -> Preparer:
    """Makes what is missing, as Luigi tasks, and returns what the run's own tasks depend on.

    Raises what `Preparer` and its `run` raise; then nothing of the run is submitted.
    """
    from batch_pipeline.luigi_adapter.preparer import Preparer
    from batch_pipeline.luigi_adapter.scheduler import central_scheduler

    # A wrong list is refused before anything is made.
    name = call.request(writes=True).graph.name
    preparations = preparations_of(call, call.new_store, listener)
    luigi = call.settings.luigi
    url = central_scheduler(luigi.scheduler_host, luigi.scheduler_port)
    preparer = Preparer(name, preparations, scheduler_url=url, say=say)
    preparer.run()
    return preparer


def reasons(call: CommandCall) -> Mapping[str, str]:
    """Name of each preparation -> why it would be made; empty: it is there. Makes nothing."""
    from batch_pipeline.records.events import NullListener
    from batch_pipeline.records.preparation import missing_reasons

    preparations = preparations_of(call, call.planned_store, NullListener())
    missing = missing_reasons(preparations)
    return {preparation.name: missing.get(preparation.name, "") for preparation in preparations}


def print_reasons(why_by_name: Mapping[str, str]) -> None:
    """The preparations as a table."""
    rows = [[name, f"would be made: {why}" if why else "there"] for name, why in why_by_name.items()]
    print_table(["preparation", "state"], rows)
    if why_by_name.get(REFERENCE):
        data("\nWhich cells would run is known when the reference is there.")
    elif any(why and name.startswith("image_") for name, why in why_by_name.items()):
        data("\nThe plan as it is now; an image that is made changes it:\n")
    else:
        data("")


def preparations_of(call: CommandCall, store: Store, listener: Listener) -> Sequence[Preparation]:
    """All that the run needs, each after those that it needs itself.

    Raises InvalidUse for files of a reference that the pipeline does not build, or that has no name.
    """
    from batch_pipeline.cli.wings import deployments

    builds = _builds_reference(call)
    preparations = list(deployments(call, store, with_builder=builds))
    if builds:
        images = tuple(each.name for each in preparations if each.name.startswith("image_"))
        preparations.append(_reference(call, store, listener, images))
    return preparations


def _builds_reference(call: CommandCall) -> bool:
    from batch_pipeline.cli.reference import require_inputs

    builder, files = call.workflow.reference_builder, call.settings.reference_files
    if not files:
        return False
    if builder is None:
        raise InvalidUse(f"{call.workflow.__name__} builds no references. Drop --reference-file and reference_files.")
    require_inputs(builder, files)
    if not call.settings.pipeline.reference:
        raise InvalidUse("A reference is built from the files given, and has no name. Give --reference NAME.")
    return True


def _reference(call: CommandCall, store: Store, listener: Listener, needs: Sequence[str]) -> Preparation:
    from batch_pipeline.cli.reference import builder_params
    from batch_pipeline.records.preparation import Preparation
    from batch_pipeline.run.reference import build_reference, missing_reference

    name, files = call.settings.pipeline.reference, call.settings.reference_files
    params = builder_params(call)
    of_reference = (call.workflow, call.settings, store, name, files)

    def build() -> None:
        outcome = build_reference(*of_reference, listener, params=params, argv=call.argv)
        if not outcome.ok:
            why = " ".join(cell.message for cell in outcome.failed) or "It cannot run."
            raise DeploymentFailed(f"{why} See its log: logs {name} reference.")

    return Preparation(
        name=REFERENCE,
        title=f"the reference {name}",
        missing=partial(missing_reference, *of_reference, params=params),
        make=build,
        remedy=f"`reference {name}` with its files as options.",
        needs=tuple(needs),
    )
