"""Classifies the errors of AWS calls (throttling, refusal, not sent, in doubt) and translates them into ours.

Errors are told by AWS's code, or by the name of botocore's class, so that botocore is not imported for it. Whether a
call may be sent again is decided here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from batch_pipeline.wire.errors import BackendFailed, BatchPipelineError, InvalidConfig


class CallOutcome(Enum):
    """What became of a call that ended with an error, which decides whether it may be sent again."""

    REFUSED = "refused"  #: The service understood it and refused it; it will do so again.
    THROTTLED = "throttled"  #: The service was asked too often; nothing was done.
    UNSENT = "unsent"  #: It never reached the service.
    MISCONFIGURED = "misconfigured"  #: It was not sent: credentials, region or endpoint are wrong.
    UNKNOWN = "unknown"  #: It may have taken effect.


#: Error codes of throttling, as botocore's own retry handler knows them, and those of the gateway before Batch.
_THROTTLES = frozenset(
    {
        "TooManyRequestsException",
        "TooManyRequests",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottledException",
        "RequestThrottled",
        "RequestLimitExceeded",
        "LimitExceededException",
        "SlowDown",
        "EC2ThrottledException",
    }
)
#: Kinds of botocore's own errors by the name of the class, subclasses included. Anything else may have taken effect.
_OUTCOMES: Mapping[str, CallOutcome] = {
    "ParamValidationError": CallOutcome.REFUSED,
    "EndpointConnectionError": CallOutcome.UNSENT,
    "ConnectTimeoutError": CallOutcome.UNSENT,
    "ProxyConnectionError": CallOutcome.UNSENT,
    "SSLError": CallOutcome.MISCONFIGURED,
    "NoCredentialsError": CallOutcome.MISCONFIGURED,
    "PartialCredentialsError": CallOutcome.MISCONFIGURED,
    "CredentialRetrievalError": CallOutcome.MISCONFIGURED,
    "TokenRetrievalError": CallOutcome.MISCONFIGURED,
    "SSOError": CallOutcome.MISCONFIGURED,
    "NoRegionError": CallOutcome.MISCONFIGURED,
    "ProfileNotFound": CallOutcome.MISCONFIGURED,
    "ConfigParseError": CallOutcome.MISCONFIGURED,
    "InvalidRegionError": CallOutcome.MISCONFIGURED,
}
#: What the user can do, by AWS's code or botocore's class.
_REMEDIES: Mapping[str, str] = {
    "AccessDeniedException": "Give your AWS identity the right to call it.",
    "UnrecognizedClientException": "The AWS credentials are wrong; run `aws sts get-caller-identity`.",
    "InvalidSignatureException": "The AWS credentials or this machine's clock are wrong.",
    "ExpiredTokenException": "The AWS credentials have expired; sign in again.",
    "NoCredentialsError": "Run `aws configure`, or set AWS_PROFILE or aws.profile.",
    "PartialCredentialsError": "Set both the access key and the secret key.",
    "NoRegionError": "Set aws.region in batch_pipeline.toml or AWS_REGION.",
    "ProfileNotFound": "Name one of `aws configure list-profiles` as aws.profile.",
    "EndpointConnectionError": "Check the network and aws.endpoint, then run the same command again.",
    "InsufficientStorageException": "Free some space there and run the same command again.",
    "WebPageAnswered": "Check aws.endpoint and its port, and that no proxy or sign-in page stands between.",
}
#: Services as people call them.
_DISPLAY_NAMES: Mapping[str, str] = {
    "batch": "AWS Batch",
    "embedded": "The embedded Batch",
    "logs": "CloudWatch Logs",
    "cloudformation": "CloudFormation",
    "ec2": "EC2",
    "ecr": "ECR",
    "iam": "IAM",
    "kms": "KMS",
    "s3": "S3",
    "sts": "STS",
}
_USERS_OWN = frozenset({"NoRegionError", "ProfileNotFound", "ConfigParseError", "InvalidRegionError"})


def classify_error(error: Exception) -> CallOutcome:
    """The outcome of the call that raised one of botocore's errors."""
    code, status = _code_and_status(error)
    if code:
        if code in _THROTTLES or status == 429:
            return CallOutcome.THROTTLED
        return CallOutcome.REFUSED if 400 <= status < 500 and status != 408 else CallOutcome.UNKNOWN
    names = (kind.__name__ for kind in type(error).__mro__)
    return next((_OUTCOMES[name] for name in names if name in _OUTCOMES), CallOutcome.UNKNOWN)


def error_text(error: Exception) -> str:
    """AWS's or botocore's words, with its code, as one line."""
    response: Any = getattr(error, "response", {})
    words = response["Error"].get("Message", "") if _code_and_status(error)[0] else str(error)
    return " ".join(f"{_name(error)}: {words}".split()).rstrip(".")


def display_name(service: str) -> str:
    """A service as people call it."""
    return _DISPLAY_NAMES.get(service, service)


def remedy_of(error: Exception, default: str = "Run the same command again.") -> str:
    """What the user can do about it."""
    return _REMEDIES.get(_name(error), default)


def translated(operation: str, error: Exception, service: str = "batch") -> BatchPipelineError:
    """Our error for a call (`describe_jobs`) that queued nothing; `transient` is set where asking again may help."""
    if _name(error) in _USERS_OWN:
        return InvalidConfig(f"{error_text(error)}. {remedy_of(error, 'Correct the section aws of the settings.')}")
    call, outcome = operation.title().replace("_", ""), classify_error(error)
    ended = "refused" if outcome is CallOutcome.REFUSED else "did not answer"
    failed = BackendFailed(f"{display_name(service)} {ended} {call} ({error_text(error)}). {remedy_of(error)}")
    failed.transient = outcome in (CallOutcome.THROTTLED, CallOutcome.UNSENT, CallOutcome.UNKNOWN)
    return failed


def is_absent(error: BaseException) -> bool:
    """Whether AWS says that the thing asked about does not exist."""
    return code_of(error) == "ResourceNotFoundException"


def code_of(error: BaseException) -> str:
    """AWS's code, or the name of botocore's class, behind one of our errors; empty when there is neither."""
    cause = error.__cause__
    return _name(cause) if isinstance(cause, Exception) else ""


def _name(error: Exception) -> str:
    return _code_and_status(error)[0] or type(error).__name__


def _code_and_status(error: Exception) -> tuple[str, int]:
    """Of a ClientError; else an empty code."""
    response: Any = getattr(error, "response", None)
    if not isinstance(response, dict) or "Error" not in response:
        return "", 0
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return str(response["Error"].get("Code", "") or "Unknown"), status
