"""Admission of a run, from request to grant, in one order: policy, precheck, remote and registry, decision.

The command line and the service both come through here; nothing else makes a `Grant`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from batch_pipeline.access.code import Tokens, code_facts
from batch_pipeline.access.gate import Grant, decide, precheck
from batch_pipeline.access.images import Resolver, image_facts
from batch_pipeline.access.policy import read_policy
from batch_pipeline.access.request import AdmissionFacts, Level, SubmitRequest, UserIdentity


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
    policy = read_policy(context.policies, request.dataset)
    precheck(request, policy, identity)
    image = request.image or policy.levels[Level(request.access_level)].image
    facts = AdmissionFacts(
        code=code_facts(request, policy, context.cache, context.tokens), image=image_facts(image, context.images)
    )
    return decide(request, policy, identity, facts)
