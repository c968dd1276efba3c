"""Admission of a run, from request to grant, in one order: policy, precheck, remote and registry, decision.

The command line and the service both come through here; nothing else makes a `Grant`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from batch_pipeline.access.code import Tokens, code_facts
from batch_pipeline.access.gate import Grant, decide, precheck
from batch_pipeline.access.images import Resolver, image_facts
from batch_pipeline.access.policy import read_policy
from batch_pipeline.access.request import AdmissionFacts, Level, SubmitRequest, UserIdentity
from batch_pipeline.log import Facts
from batch_pipeline.wire.errors import Refused

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
    facts = AdmissionFacts(
        code=code_facts(request, policy, context.cache, context.tokens), image=image_facts(image, context.images)
    )
    return decide(request, policy, identity, facts)
