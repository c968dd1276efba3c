"""Builds the admission context (identity, git tokens, registry client) from the settings."""

from __future__ import annotations

from typing import Final

from batch_pipeline.access.admission import AdmissionContext
from batch_pipeline.access.images import ImageName, ask_registry
from batch_pipeline.access.launching import store_of
from batch_pipeline.access.request import UserIdentity
from batch_pipeline.backends.account import Inspectable, NotVisible
from batch_pipeline.config import Settings
from batch_pipeline.records.people import user_name
from batch_pipeline.wire.order import token_of

#: `arn:aws:sts::1:assumed-role/team/alice` -> the role that a policy may name.
_SESSION: Final = ":assumed-role/"


def admission_context_of(settings: Settings, backend: object) -> AdmissionContext:
    """Returns the context for these settings: code by its remote, images by their registry."""

    def token(reference: str) -> str:
        kind, _, name = reference.partition(":")
        if kind == "secretsmanager" and isinstance(backend, Inspectable):
            return backend.account.secret(name)
        return token_of(reference, {})

    def digest(name: ImageName) -> str:
        if isinstance(backend, Inspectable):
            try:
                suffix = f":{name.tag}" if name.tag else f"@{name.digest}" if name.digest else ""
                return backend.account.image_digest(f"{name.repository}{suffix}")
            except NotVisible:
                pass
        return ask_registry(name)

    return AdmissionContext(
        policies=settings.access.policies,
        cache=settings.access.cache_folder,
        tokens=token,
        images=digest,
        stores=lambda url: store_of(url, settings),
    )


def identity_of(backend: object) -> UserIdentity:
    """Returns the identity of the user: from STS on AWS, else the user of this machine."""
    if isinstance(backend, Inspectable) and backend.account.complete:
        try:
            arn = backend.account.identity()[1]
        except NotVisible:
            return UserIdentity(name="", source="sts")
        head, session, rest = arn.partition(_SESSION)
        role = f"{head.replace(':sts:', ':iam:')}:role/{rest.partition('/')[0]}" if session else ""
        return UserIdentity(name=arn, source="sts", aliases=(role,) if role else ())
    return UserIdentity(name=user_name(), source="machine")
