"""Job definitions at the backend: registered when their content is new, and deregistered when no job needs them.

A definition's name ends in the digest of its content (`backends.definitions`), so that one which is there needs
nothing, and its tag says whose it is. Pruning touches only ACTIVE ones with this pipeline's tag and such a name that
neither the pipeline as it is now nor a live run uses: AWS lets no more jobs in by a retired definition, lets those that
were submitted run on, and forgets it after half a year. A later run registers what it needs again.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from batch_pipeline.backends.aws_clients import Clients, aws_maker, chunks, embedded_maker
from batch_pipeline.backends.batch import BatchBackend
from batch_pipeline.backends.credentials import identity_of
from batch_pipeline.backends.definitions import (
    DIGEST_DIGITS,
    PIPELINE_TAG,
    configured_definitions,
    join_definition,
)
from batch_pipeline.backends.quotas import JOBS_PER_DESCRIBE
from batch_pipeline.run.reference import builder_graph

if TYPE_CHECKING:
    from batch_pipeline.cli.call import CommandCall
    from batch_pipeline.config import Settings

_OURS: Final = re.compile(rf".*-[0-9a-f]{{{DIGEST_DIGITS}}}")


@dataclass(frozen=True, kw_only=True)
class DeployedDefinition:
    """The definition of one step at the backend."""

    step: str
    #: `name:revision`; without the revision when it is not registered.
    definition: str
    #: Whether it was not there before.
    new: bool


def batch_clients(settings: Settings) -> Clients:
    """The clients that the backend of these settings has."""
    if settings.backend.name == "embedded":
        return Clients(embedded_maker(settings.embedded, identity_of(settings)), renewable=True)
    return Clients(aws_maker(settings.aws))


def wanted_definitions(call: CommandCall) -> Mapping[str, Mapping[str, Any]]:
    """The definitions of the pipeline's steps, and of the step that builds its references. Raises InvalidPipeline."""
    definitions = dict(configured_definitions(call.graph, call.settings))
    if call.workflow.reference_builder is not None:
        graph = builder_graph(call.workflow, call.settings)
        definitions |= configured_definitions(graph, call.settings, pipeline=call.graph.name)
    return definitions


def deploy_definitions(
    definitions: Mapping[str, Mapping[str, Any]], settings: Settings, clients: Clients, *, dry_run: bool = False
) -> Sequence[DeployedDefinition]:
    """Registers the steps' definitions that are not there. Raises SubmissionRefused, BackendFailed."""
    name_of = {step: str(definition["jobDefinitionName"]) for step, definition in definitions.items()}
    there = _registered(clients, sorted(set(name_of.values())))
    pinned = dict(there)
    if not dry_run:
        pinned |= BatchBackend(settings, clients=clients).prepare(definitions.values())
    return [
        DeployedDefinition(step=step, definition=pinned.get(name, name), new=name not in there)
        for step, name in name_of.items()
    ]


def names_in_use(definitions: Mapping[str, Mapping[str, Any]]) -> frozenset[str]:
    """Names of the definitions by which jobs of these steps are submitted, joins included."""
    joins = {str(join_definition(definition)["jobDefinitionName"]) for definition in definitions.values()}
    return frozenset(joins | {str(definition["jobDefinitionName"]) for definition in definitions.values()})


def unused(clients: Clients, pipeline: str, used: Collection[str]) -> list[str]:
    """`name:revision` of the pipeline's ACTIVE definitions that are not used, oldest name first."""
    revisions = []
    # All of the account's, page by page: AWS can filter by an exact name alone.
    for item in clients.pages("describe_job_definitions", "jobDefinitions", status="ACTIVE"):
        name = str(item["jobDefinitionName"])
        ours = item.get("tags", {}).get(PIPELINE_TAG) == pipeline and _OURS.fullmatch(name)
        if ours and name not in used and item.get("status") == "ACTIVE":
            revisions.append((name, int(item["revision"])))
    return [f"{name}:{revision}" for name, revision in sorted(revisions)]


def retire(clients: Clients, revisions: Sequence[str]) -> None:
    """Takes definitions, as `name:revision`, out of use. Doing it again is harmless. Raises BackendFailed."""
    for definition in revisions:
        clients.read("deregister_job_definition", jobDefinition=definition)


def _registered(clients: Clients, names: Sequence[str]) -> dict[str, str]:
    """Name -> `name:revision` of those that are registered; the first revision of a name is as good as any."""
    registered = {}
    for some in chunks(names, JOBS_PER_DESCRIBE):
        first = [f"{name}:1" for name in some]
        for item in clients.pages("describe_job_definitions", "jobDefinitions", jobDefinitions=first):
            if item["status"] == "ACTIVE":
                registered[str(item["jobDefinitionName"])] = f"{item['jobDefinitionName']}:{item['revision']}"
    return registered
