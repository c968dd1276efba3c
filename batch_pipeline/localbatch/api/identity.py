"""Lends attempts the AWS identity of the server's user, as a role does on AWS: for a store in S3.

A client says who it is when it connects (`client.lend`), by the variables from which botocore's chain starts; the
server keeps them in memory, in no file and no record. Attempts ask for keys at a URL on loopback, by the protocol of
ECS's containers, with a token from a file that only this user can reach:
https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html. So what a job's environment holds is
no secret, what a profile or SSO gives is renewed here, and a step's own AWS tools find the same identity.
"""

from __future__ import annotations

import hmac
import os
import secrets
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from batch_pipeline.wire.errors import BackendFailed

#: How long keys may be used before they are asked for again; botocore renews its own ten minutes before their end.
LENT_FOR = timedelta(minutes=10)
#: Where attempts ask.
PATH = "/_credentials"
_NAME = "identity/token"


class AwsIdentity:
    """Who the attempts of a state folder are on AWS. Safe to share between threads."""

    def __init__(self, state: Path) -> None:
        self._file = state / _NAME
        self._token = _kept_token(self._file)
        self._known: Mapping[str, str] = {}
        self._credentials: Any = None
        self._lock = threading.Lock()

    def variables(self, url: str) -> dict[str, str]:
        """What an attempt needs to ask a server at this URL."""
        return {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{url}{PATH}",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(self._file),
        }

    def assume(self, variables: Mapping[str, str]) -> None:
        """Lends this identity from now on. The variables become this process's, where botocore's chain looks."""
        with self._lock:
            if variables == self._known:
                return
            for name in self._known:
                os.environ.pop(name, None)
            os.environ.update(variables)
            self._known = dict(variables)
            self._credentials = None

    def knows(self, authorization: str) -> bool:
        """Whether who asks has read the token."""
        return hmac.compare_digest(authorization.encode(errors="replace"), self._token.encode())

    def credentials(self) -> dict[str, Any]:
        """Keys as ECS gives them. May take as long as a sign-in takes. Raises BackendFailed when there are none."""
        import botocore.session
        from botocore.exceptions import BotoCoreError, ClientError

        with self._lock:
            try:
                if self._credentials is None:
                    self._credentials = botocore.session.Session().get_credentials()
                frozen = self._credentials and self._credentials.get_frozen_credentials()
            except (BotoCoreError, ClientError) as error:
                raise BackendFailed(f"The AWS credentials cannot be had ({error}). Sign in again.") from error
        if not frozen:
            raise BackendFailed("No AWS credentials were found. Run `aws configure`, or set AWS_PROFILE.")
        return {
            "AccessKeyId": frozen.access_key,
            "SecretAccessKey": frozen.secret_key,
            "Token": frozen.token,
            "Expiration": (datetime.now(UTC) + LENT_FOR).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


def _kept_token(file: Path) -> str:
    """The token of a state folder: workers that outlive a server ask the next one with it.

    The state folder keeps others out; the file itself can be read, by a container's user where it is mounted alone.
    """
    try:
        # An empty one, left by a machine that lost its power, would be everybody's.
        if token := file.read_text():
            return token
    except FileNotFoundError:
        pass
    file.parent.mkdir(mode=0o700, exist_ok=True)
    token = secrets.token_urlsafe(32)
    part = file.with_name(f"token.{os.getpid()}")
    part.write_text(token)
    part.chmod(0o644)
    part.replace(file)
    return token
