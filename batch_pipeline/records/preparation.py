"""What a run needs before its jobs are sent, each thing with a check whether it is missing and a way to make it.

An image, the job definitions, the code, a reference: each is described by the room that makes it. Luigi's adapter makes
those that are missing as tasks of the workflow (`luigi_adapter.preparer`); `plan --prepare` shows them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """One thing that a run needs."""

    #: Names its Luigi task, below `prepare.`: `image_picard`, `definitions`.
    name: str
    #: For people: `the image picard`.
    title: str
    #: Reads registry, backend or store, and returns why it must be made; empty: it is there. Writes nothing.
    missing: Callable[[], str]
    #: Makes it. Doing so again is harmless.
    make: Callable[[], None]
    #: What makes it by hand, for the message when it fails: `deploy images picard`.
    remedy: str
    #: Names of those that are made before it.
    needs: tuple[str, ...] = ()


def missing_reasons(preparations: Sequence[Preparation]) -> Mapping[str, str]:
    """Name -> why it must be made, of those that are missing; each is checked once, after those that it needs.

    One that needs a missing one counts as missing without a check, since it follows from what that becomes.
    Raises what the checks raise.
    """
    reasons: dict[str, str] = {}
    for preparation in preparations:
        before = next((need for need in preparation.needs if need in reasons), "")
        if reason := f"after {before}" if before else preparation.missing():
            reasons[preparation.name] = reason
    return reasons
