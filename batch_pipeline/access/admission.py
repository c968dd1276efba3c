"""Admission of a run, from request to grant, in one order: policy, precheck, remote and registry, decision.

The command line and the server both come through here, and nothing is submitted that did not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from batch_pipeline.access.code import Tokens, code_facts
from batch_pipeline.access.gate import Grant, decide, precheck
from batch_pipeline.access.images import Resolver, image_facts
from batch_pipeline.access.policy import read_policy
from batch_pipeline.access.request import Facts, Identity, Level, RunAsk


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Where asks are looked at: where policies lie, and who can be asked about code and images."""

    #: Folder or prefix of the policies.
    policies: str
    #: Folder of fetched repositories; nobody else writes there.
    cache: Path
    #: Gives the token that a policy's reference names. No sooner asked than the ask has passed what needs none.
    tokens: Tokens = lambda reference: ""
    #: None: registries that anybody may read.
    images: Resolver | None = None


def admit(ask: RunAsk, identity: Identity, desk: Desk) -> Grant:
    """Lets an ask through. Raises Refused with all that stands against it, InvalidConfig, RepositoryFailed, …"""
    policy = read_policy(desk.policies, ask.dataset)
    precheck(ask, policy, identity)
    image = ask.image or policy.levels[Level(ask.access_level)].image
    facts = Facts(code=code_facts(ask, policy, desk.cache, desk.tokens), image=image_facts(image, desk.images))
    return decide(ask, policy, identity, facts)
