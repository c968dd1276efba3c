"""How S3 is reached, what its errors mean for a person, and which writes are retried with exponential back-off.

The same names serve on both sides of the wire. A client reaches S3 as its settings and AWS's own chain of credentials
say (`backends.credentials`); what is no secret of that (endpoint, region, key of encryption) goes into the jobs'
environment under the names that obstore and botocore know. A container finds its credentials by obstore's own chain:
variables, the role of the container, the role of the machine.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from obstore.exceptions import AlreadyExistsError

from batch_pipeline.wire.errors import StoreFailed

#: obstore's 30 seconds are for the whole of an object, which is too little for a large one on a slow line.
REQUEST_TIMEOUT: Final = "12h"
#: Without a byte for so long a request has failed; it is made again.
SILENCE_TIMEOUT: Final = "120s"
#: Bytes a part of an upload has at least, and how many parts an object may have; S3's own number:
#: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
UPLOAD_PART: Final = 8 << 20
MOST_PARTS: Final = 10_000
#: Seconds between the tries of a write that met another one for the same key.
CONFLICT_PAUSES: Final = (0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True, kw_only=True)
class S3Access:
    """How to reach S3. What is empty follows from obstore's defaults."""

    #: Of a service that stands in for S3; empty: AWS's.
    endpoint: str = ""
    region: str = ""
    #: Key of KMS that encrypts what is written; empty: the bucket's own encryption.
    kms_key: str = ""
    #: obstore's credential provider; None: obstore's own chain.
    credentials: Callable[[], Mapping[str, Any]] | None = field(default=None, repr=False)

    @staticmethod
    def from_environment() -> S3Access:
        """What the variables of this process say, by the names of botocore and obstore."""
        return S3Access(
            endpoint=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "",
            region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "",
            kms_key=os.environ.get("AWS_SSE_KMS_KEY_ID") or "",
            credentials=_lent_on_this_machine(os.environ),
        )

    def options(self) -> dict[str, Any]:
        """Arguments of obstore's `S3Store`."""
        client = {
            "timeout": REQUEST_TIMEOUT,
            "read_timeout": SILENCE_TIMEOUT,
            "allow_http": self.endpoint.startswith("http://"),
        }
        options: dict[str, Any] = {"client_options": client}
        if self.endpoint:
            options["endpoint"] = self.endpoint
        if self.region:
            options["region"] = self.region
        if self.kms_key:
            # One call of KMS serves many objects: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucket-key.html
            options |= {
                "server_side_encryption": "aws:kms",
                "sse_kms_key_id": self.kms_key,
                "sse_bucket_key_enabled": True,
            }
        if self.credentials is not None:
            options["credential_provider"] = self.credentials
        return options

    def variables(self) -> dict[str, str]:
        """The environment in which another process reaches S3 in the same way; no secret is in it."""
        reach = {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_REGION": self.region,
            "AWS_SSE_KMS_KEY_ID": self.kms_key,
        }
        if self.kms_key:
            reach |= {"AWS_SERVER_SIDE_ENCRYPTION": "aws:kms", "AWS_SSE_BUCKET_KEY_ENABLED": "true"}
        return {name: value for name, value in reach.items() if value}


def _lent_on_this_machine(environment: Mapping[str, str]) -> Callable[[], Mapping[str, Any]] | None:
    """The credentials of a container whose role is on loopback: the embedded Batch; None: there is none.

    obstore would ask there too, but takes no keys without a session token, which is what a user of IAM has.
    """
    url = environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI", "")
    file = environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "")
    if not file or not url.startswith("http://127.0.0.1:") or environment.get("AWS_ACCESS_KEY_ID"):
        return None

    def ask() -> Mapping[str, Any]:
        from datetime import datetime
        from http.client import HTTPConnection

        host, _, path = url.removeprefix("http://").partition("/")
        with open(file, encoding="ascii") as token:
            authorization = token.read()
        connection = HTTPConnection(host, timeout=60)
        try:
            connection.request("GET", f"/{path}", headers={"Authorization": authorization})
            answer = connection.getresponse()
            fields = json.loads(answer.read())
        finally:
            connection.close()
        if answer.status != 200:
            raise StoreFailed(fields["message"])
        return {
            "access_key_id": fields["AccessKeyId"],
            "secret_access_key": fields["SecretAccessKey"],
            "token": fields["Token"],
            "expires_at": datetime.fromisoformat(fields["Expiration"]),
        }

    return ask


#: What the user can do, by S3's error code or a word of obstore's: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_MEANINGS: Final[Mapping[str, tuple[str, str]]] = {
    "NoSuchBucket": (
        "there is no such bucket",
        "Check --store or --bucket-name, and the region; or create the bucket.",
    ),
    "AccessDenied": ("S3 denies access", "Give this AWS identity, and the jobs' role, the rights on the bucket."),
    "AllAccessDisabled": ("S3 has disabled access to the bucket", "Ask AWS's support, or use another bucket."),
    "ExpiredToken": ("the AWS credentials have expired", "Sign in again, with `aws sso login` say, and run again."),
    "TokenRefreshRequired": ("the AWS credentials have expired", "Sign in again, with `aws sso login` say."),
    "InvalidToken": ("S3 does not accept the AWS credentials", "Sign in again, or check AWS_SESSION_TOKEN."),
    "InvalidAccessKeyId": ("S3 does not know the AWS access key", "Check aws.profile or the AWS_ variables."),
    "SignatureDoesNotMatch": ("the AWS secret key is wrong", "Check aws.profile or the AWS_ variables."),
    "RequestTimeTooSkewed": ("this machine's clock is wrong", "Set the clock, and run again."),
    "AuthorizationHeaderMalformed": ("the bucket is in another region", "Set aws.region to the bucket's region."),
    "PermanentRedirect": ("the bucket is in another region", "Set aws.region to the bucket's region."),
    "IllegalLocationConstraintException": ("the bucket is in another region", "Set aws.region to its region."),
    "incorrectly configured region": ("the bucket is in another region", "Set aws.region to the bucket's region."),
    "KMS.NotFoundException": ("there is no such key in KMS", "Check store.kms_key; it must be in the bucket's region."),
    "KMS.DisabledException": ("the key in KMS is disabled", "Enable it, or set another as store.kms_key."),
    "KMS.KMSInvalidStateException": ("the key in KMS cannot be used now", "Set another as store.kms_key."),
    "InvalidBucketName": ("S3 does not take the bucket's name", "Check --store or --bucket-name."),
    "EntityTooLarge": ("the object is too large for S3", "Split the file."),
    "401 Unauthorized": ("S3 does not accept the AWS credentials", "Check aws.profile or the AWS_ variables."),
    "403 Forbidden": ("S3 denies access", "Give this AWS identity, and the jobs' role, the rights on the bucket."),
    "latest/api/token": ("no AWS credentials were found", "Run `aws configure`, or set AWS_PROFILE or aws.profile."),
    "credential provider": ("the AWS credentials cannot be had", "Sign in again, with `aws sso login` say."),
}
#: A sentence of S3's own is added for these.
_SAID: Final = ("AccessDenied", "KMS.")
_CODE: Final = re.compile(r"<Code>([\w.]+)</Code>|\(code: ([\w.]+)\)")
_MESSAGE: Final = re.compile(r"<Message>([^<]*)</Message>")
#: What a web page in place of S3's answer is known by: itself, or what obstore misses in it.
_PAGE: Final = re.compile(r"<!doctype html|<html|ETag Header missing|invalid DeleteObjects response", re.IGNORECASE)
_NO_S3: Final = (
    "what answers there is a web page, not S3",
    "Check aws.s3_endpoint and its port, and that no proxy or sign-in page stands between.",
)
#: A request that met another one for the same key: neither refused nor done.
_CONFLICTS: Final = ("ConditionalRequestConflict", "OperationAborted", "409 Conflict")


def is_conflict(error: Exception) -> bool:
    """Whether S3 asks to come again because two requests for one key met.

    obstore takes it for "exists already": https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
    """
    return any(word in str(error) for word in _CONFLICTS)


def random_share() -> float:
    """A random number from 0 to below 1, for jitter. (`random` takes 3 ms to import.)"""
    return int.from_bytes(os.urandom(6), "big") / (1 << 48)


def jittered(seconds: float) -> float:
    """A pause of half to one and a half times so long, so that many who failed at once do not come again at once."""
    return seconds * (0.5 + random_share())


def part_bytes(size_bytes: int) -> int:
    """How large the parts of an upload are: obstore's own 5 MiB would not hold more than 50 GB."""
    return max(UPLOAD_PART, -(-size_bytes // MOST_PARTS))


def retry_on_conflict(write: Callable[[], object]) -> None:
    """Writes, and retries with exponential back-off where S3 says that two requests for one key met.

    obstore itself does so, with jitter, where S3 is too busy (503 SlowDown).
    """
    for pause in CONFLICT_PAUSES:
        try:
            write()
        except AlreadyExistsError as error:
            if not is_conflict(error):
                raise
            time.sleep(jittered(pause))
        else:
            return
    write()


def is_not_the_object(error: Exception) -> bool:
    """Whether an error that says "not found" means the bucket, or the service, and not the object."""
    return "<Code>NoSuchBucket</Code>" in str(error) or _PAGE.search(str(error)) is not None


def no_s3(url: str) -> StoreFailed:
    """The error for what answers in S3's place."""
    return _final(f"{url}: {_NO_S3[0]}. {_NO_S3[1]}")


def translated(url: str, error: Exception) -> StoreFailed | None:
    """Our error for what S3 or obstore says of a URL; None when the words are not known. It is final, not transient."""
    text = str(error).split("Debug source:", 1)[0]
    if _PAGE.search(text):
        return no_s3(url)
    match = _CODE.search(text)
    code = (match.group(1) or match.group(2)) if match else ""
    key = code if code in _MEANINGS else next((word for word in _MEANINGS if word in text), "")
    if not key:
        return None
    what, remedy = _MEANINGS[key]
    return _final(f"{url}: {what}{_reason(key, text)}. {remedy}")


def _final(message: str) -> StoreFailed:
    failed = StoreFailed(message)
    failed.transient = False
    return failed


def _reason(key: str, text: str) -> str:
    """S3's own words where they tell more than the code, or those of who should have had credentials."""
    if key == "credential provider":
        return f" ({' '.join(text.rpartition('credential provider: ')[2].split()).rstrip('.')})"
    message = _MESSAGE.search(text)
    return f" ({message.group(1).strip().rstrip('.')})" if message and key.startswith(_SAID) else ""
