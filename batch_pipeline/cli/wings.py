"""All that the command line takes from the wings: the modules of their verbs, and what other verbs ask of them.

A wing is a whole capability that the core does without: the pool, access, deployment. Wings import the core; the core
knows them here and, for the backend of a run, in `run.backend`. Everything is loaded at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from batch_pipeline.access.admission_context import identity_of
    from batch_pipeline.access.cli.by_service import runs_by_service, server_option
    from batch_pipeline.deploy.images import deploy_images
    from batch_pipeline.deploy.preparations import deployments

#: Verb -> the module that makes its command.
VERBS_OF_WINGS: Final = {
    "submit": "batch_pipeline.access.cli.submit",
    "config": "batch_pipeline.access.cli.config",
    "pool": "batch_pipeline.pool.cli.group",
    "deploy": "batch_pipeline.deploy.cli.deploy",
    "serve": "batch_pipeline.access.cli.serve",
}
_HOME: Final = {
    "deploy_images": "batch_pipeline.deploy.images",
    "deployments": "batch_pipeline.deploy.preparations",
    "identity_of": "batch_pipeline.access.admission_context",
    "runs_by_service": "batch_pipeline.access.cli.by_service",
    "server_option": "batch_pipeline.access.cli.by_service",
}

__all__ = [
    "VERBS_OF_WINGS",
    "deploy_images",
    "deployments",
    "identity_of",
    "runs_by_service",
    "server_option",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
