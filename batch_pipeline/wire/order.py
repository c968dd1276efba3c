"""The order of a driver: which code it runs and how, fixed before its job is submitted.

The code is one or more commits (`submit`: the gate's decision as the container needs it), or a bundle of the store
(`run --driver batch`). The job's environment has the order's key and its digest, so that an order that somebody
exchanged in the store is not obeyed. Tokens of private repositories are named by references, and never here.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from batch_pipeline.wire.contract import CommandExit, ContainerExit
from batch_pipeline.wire.digest import fingerprint_of
from batch_pipeline.wire.errors import ContractBroken

FORMAT: Final = 1
#: Begins the variables by which AWS hands secrets to a container; the script gets none of them.
SECRET_PREFIX: Final = "BATCH_PIPELINE_SECRET_"
_REFERENCE: Final = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:/\S+|secretsmanager:arn:[\w/+=.@:-]+")


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """One repository at one commit, at its place in the working tree; the first of an order is the root."""

    url: str
    commit: str
    tree: str
    #: From the root; empty: the root itself.
    path: str = ""
    #: Reference to a token; empty: anybody may read it.
    secret: str = ""


@dataclass(frozen=True, kw_only=True)
class DriverOrder:
    """What a driver job does."""

    run_id: str
    dataset: str
    access_level: str
    #: Who asked.
    user: str
    #: Where the script writes, from the root of the dataset's store.
    output: str
    #: Argv; the first is `entry` when that is set, else a program of the image.
    script: Sequence[str]
    #: The script from the repository's root.
    entry: str = ""
    #: Where it starts, from the repository's root.
    cwd: str = ""
    #: None: no code is checked out.
    checkouts: Sequence[Checkout] = ()
    #: What the user gave.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: What leads a pipeline in the script to its store and backend: `BATCH_PIPELINE__…`, and the like.
    settings: Mapping[str, str] = field(default_factory=dict)
    #: Key and digest of the merged configuration.
    config: str = ""
    config_sha256: str = ""
    #: Digest of the bundle that has the pipeline, its settings and samples; empty: no driver of `run`.
    bundle_sha256: str = ""
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """The order as it lies in the store. Images of before bundles read an order without one."""
        value = asdict(self)
        if not self.bundle_sha256:
            del value["bundle_sha256"]
        return value

    def transient_exit(self, code: int) -> int | None:
        """The exit code by which Batch starts the driver of a pipeline again after `code`; None: that one is final.

        It was killed, or did not reach store or backend. A script of `submit` may not bear to be run twice.
        """
        if not self.bundle_sha256:
            return None
        if code in (128 + signal.SIGKILL, 128 + signal.SIGTERM, CommandExit.INTERRUPTED):
            return ContainerExit.INTERRUPTED
        return ContainerExit.STORE_UNREACHABLE if code == CommandExit.UNREACHABLE else None

    @classmethod
    def from_json(cls, value: Any) -> DriverOrder:
        """Reads an order. Raises ContractBroken for one that is none, or of a later version."""
        try:
            if value["format"] != FORMAT:
                raise ContractBroken(f"The order has format {value['format']!r}; this image knows {FORMAT}. Build it.")
            return cls(**{**value, "checkouts": tuple(Checkout(**item) for item in value["checkouts"])})
        except (TypeError, KeyError) as error:
            raise ContractBroken(f"The driver's order is not as agreed ({error}). Submit again.") from error


def is_reference(secret: str) -> bool:
    """Whether a text names a secret and is none: `env:NAME`, `file:/path`, `secretsmanager:ARN`."""
    return _REFERENCE.fullmatch(secret) is not None


def secret_variable(reference: str) -> str:
    """The variable by which AWS hands the secret of a reference to a container."""
    return f"{SECRET_PREFIX}{fingerprint_of(reference).upper()}"


def token_of(reference: str, environment: Mapping[str, str]) -> str:
    """The token that a reference names, where a driver runs. Raises ContractBroken, without the token, for none."""
    kind, _, name = reference.partition(":")
    if not reference:
        return ""
    if kind == "file":
        try:
            return Path(name).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ContractBroken(f"The token's file {name} cannot be read. Put it there, for this user.") from error
    variable = name if kind == "env" else secret_variable(reference)
    token = environment.get(variable) or os.environ.get(variable, "")
    if not token:
        raise ContractBroken(f"The token {reference} is not there ({variable} is not set). See to the host or role.")
    return token.strip()
