"""Reaches S3 with the AWS identity that the Batch clients have: botocore's chain, profiles and SSO included.

obstore has a chain of its own, which reads variables and asks for roles but knows no profiles. Where the variables say
everything, botocore (a tenth of a second to import) is left alone; else it finds the credentials and renews them, and
obstore asks for them every few minutes. obstore's own provider for this imports boto3 too, and keeps what it was given
for half an hour, which is longer than botocore promises.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from batch_pipeline.wire.errors import InvalidConfig, StoreFailed
from batch_pipeline.wire.s3 import S3Access

if TYPE_CHECKING:
    from batch_pipeline.config import Settings

#: How long obstore may use what botocore gave, whose keys last ten minutes more at the least; it asks again at half.
LENT_FOR: Final = timedelta(minutes=10)
#: The variables from which botocore's chain starts. Some are secrets: they go nowhere but to `localbatch.client.lend`.
IDENTITY: Final = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CA_BUNDLE",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_EC2_METADATA_DISABLED",
)


def reach_of(settings: Settings) -> Callable[[], S3Access]:
    """How the settings reach S3, found out when it is first asked.

    What it returns raises InvalidConfig for a profile that is not there, StoreFailed when there are no credentials.
    """

    @cache
    def reach() -> S3Access:
        by_environment = S3Access.from_environment()
        access = replace(
            by_environment,
            endpoint=settings.aws.s3_endpoint or by_environment.endpoint,
            region=settings.aws.region or by_environment.region,
            kms_key=settings.store.kms_key or by_environment.kms_key,
        )
        return access if _is_complete(access, settings.aws.profile) else _by_botocore(access, settings.aws.profile)

    return reach


def identity_of(settings: Settings) -> dict[str, str]:
    """The variables that make another process of this user's the same AWS identity. Some may be secrets."""
    variables = {name: os.environ[name] for name in IDENTITY if os.environ.get(name)}
    if settings.aws.profile:
        # As in botocore: a profile that was asked for goes before keys that happen to be there.
        keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        variables = {name: value for name, value in variables.items() if name not in keys}
        variables["AWS_PROFILE"] = settings.aws.profile
    return variables


def _is_complete(access: S3Access, profile: str) -> bool:
    """Whether obstore finds by itself what botocore would find."""
    if os.environ.get("AWS_SKIP_SIGNATURE"):
        return True
    has_keys = os.environ.get("AWS_ACCESS_KEY_ID") and os.environ.get("AWS_SECRET_ACCESS_KEY")
    return bool(has_keys and access.region and not profile)


def _by_botocore(access: S3Access, profile: str) -> S3Access:
    import botocore.session
    from botocore.exceptions import BotoCoreError, ConfigParseError, ProfileNotFound

    session = botocore.session.Session(profile=profile or None)
    try:
        credentials = session.get_credentials()
        region = access.region or session.get_config_variable("region") or ""
    except (ProfileNotFound, ConfigParseError) as error:
        raise InvalidConfig(
            f"{_error_text(error)}. Set aws.profile to one of `aws configure list-profiles`."
        ) from error
    except BotoCoreError as error:
        raise _final(f"The AWS credentials cannot be had ({_error_text(error)}). Sign in again.") from error
    if credentials is None:
        raise _final("No AWS credentials were found. Run `aws configure`, or set AWS_PROFILE or aws.profile.")
    return replace(access, region=region, credentials=_lender(credentials))


def _error_text(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _final(message: str) -> StoreFailed:
    """Asking again will not help."""
    failed = StoreFailed(message)
    failed.transient = False
    return failed


def _lender(credentials: Any) -> Callable[[], Mapping[str, Any]]:
    """What obstore asks: https://developmentseed.org/obstore/latest/authentication/."""

    def lend() -> Mapping[str, Any]:
        frozen = credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + LENT_FOR,
        }

    return lend
