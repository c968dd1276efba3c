"""Admission of a run, from request to grant, in one order: policy, precheck, remote, registry and spending, decision.

The command line and the service both come through here; nothing else makes a `Grant`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from batch_pipeline.access.budget import spending_facts
from batch_pipeline.access.code import Tokens, code_facts
from batch_pipeline.access.gate import Grant, decide, precheck
from batch_pipeline.access.images import Resolver, image_facts
from batch_pipeline.access.policy import read_policy
from batch_pipeline.access.request import AdmissionFacts, Level, SubmitRequest, UserIdentity
from batch_pipeline.log import Facts
from batch_pipeline.wire.errors import Refused
from batch_pipeline.wire.store import Store, open_store

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AdmissionContext:
    """What admission needs beside the request: the policies, and access to git remotes and image registries."""

    #: Folder or prefix of the policies.
    policies: str
    #: Cache of fetched repositories; nobody else writes there.
    cache: Path
    #: Gives the token that a policy's reference names. Called only after the checks that need no token.
    tokens: Tokens = lambda reference: ""
    #: None: registries that anybody may read.
    images: Resolver | None = None
    #: Opens a dataset's store by its URL, to read there what its runs cost.
    stores: Callable[[str], Store] = open_store


def admit(request: SubmitRequest, identity: UserIdentity, context: AdmissionContext) -> Grant:
    """Admits a request, or raises Refused with all that stands against it; also InvalidConfig, RepositoryFailed, …"""
    about = {
        "user": identity.name,
        "dataset": request.dataset,
        "level": request.access_level,
        "repository": request.repository,
    }
    try:
        grant = _decided(request, identity, context)
    except Refused as error:
        _LOG.info("refused %s", Facts(**about, commit=request.commit, because=" ".join(map(str, error.problems))))
        raise
    _LOG.info("admitted %s", Facts(**about, commit=grant.commit, image=grant.image, policy_sha256=grant.policy_sha256))
    return grant


def _decided(request: SubmitRequest, identity: UserIdentity, context: AdmissionContext) -> Grant:
    policy = read_policy(context.policies, request.dataset)
    precheck(request, policy, identity)
    image = request.image or policy.levels[Level(request.access_level)].image
    has_budget = policy.month_budget is not None
    facts = AdmissionFacts(
        code=code_facts(request, policy, context.cache, context.tokens),
        image=image_facts(image, context.images),
        spending=spending_facts(policy, context.stores, datetime.now(UTC)) if has_budget else None,
    )
    return decide(request, policy, identity, facts)
