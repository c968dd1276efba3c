"""Builds the `RunContext` (definitions, environment, tags) that all jobs of a run or of a dry run share."""

from __future__ import annotations

from typing import Final

from batch_pipeline.backends.definitions import configured_definitions
from batch_pipeline.backends.payload import RunContext, width_name
from batch_pipeline.pipeline.step import Scope
from batch_pipeline.records.request import Request
from batch_pipeline.run.bundle import Bundle, make_bundle
from batch_pipeline.run.folders import local_folders
from batch_pipeline.wire.contract import Variable

#: Stands for the id of a run that nobody began: as long as one, and lawful where one is.
NO_RUN: Final = "THE-RUN-S-ID-26-CHARACTERS"


def context_of(request: Request, *, reference: str, run_id: str = NO_RUN, bundle: Bundle | None = None) -> RunContext:
    """The context of a run; writes nothing.

    Raises InvalidPipeline for definitions or code that cannot be read.
    """
    settings, store = request.settings, request.store
    name = settings.pipeline.name or request.graph.name
    packed = bundle or make_bundle(request.graph)
    return RunContext(
        run_id=run_id,
        pipeline_name=name,
        queue=settings.backend.queue,
        store_url=store.url,
        store_variables={**store.variables, Variable.FOLDERS: ":".join(local_folders(request))},
        bundle_url=store.url_of(packed.key),
        bundle_sha256=packed.sha256,
        definitions=configured_definitions(request.graph, settings, pipeline=name),
        bucket_name=settings.store.bucket,
        reference=reference,
        tags=dict(settings.tags),
        share_identifier=settings.backend.share_identifier,
        priority=settings.backend.priority if settings.backend.priority >= 0 else None,
        widths={
            node.name: width_name(run_id, node.name)
            for node in request.graph
            if node.max_parallel and node.step.scope is Scope.SAMPLE
        },
    )
