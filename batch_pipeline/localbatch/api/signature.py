"""AWS's Signature Version 4, so that only who knows the server's secret can make it run commands.

botocore's `SigV4Auth` makes the same signature and is the oracle of the tests. It signs for one client and does not
check others': it leaves out headers that other SDKs sign (User-Agent), believes X-Amz-Content-SHA256 where the body is
another one, and wants its own request objects. A check made of it is as long as this one, and takes twice the time.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote, unquote_plus

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/"
    r"(?P<scope>(?P<date>\d{8})/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request),"
    r"\s*SignedHeaders=(?P<headers>[^,]+),\s*Signature=(?P<signature>[0-9a-f]{64})"
)
#: How far the clocks may differ.
SKEW_SECONDS = 900


def is_signed(
    *,
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    body: bytes,
    access_key: str,
    secret_key: str,
    now: datetime,
) -> bool:
    """Whether a request carries a fresh signature made with this key."""
    match = _AUTHORIZATION.fullmatch(headers.get("Authorization", ""))
    stamp = headers.get("X-Amz-Date", "")
    if not match or match["key"] != access_key or not _is_fresh(stamp, now):
        return False
    names = match["headers"].split(";")
    if "host" not in names or "x-amz-date" not in names:
        return False
    canonical = "\n".join(
        (
            method,
            quote(path, safe="/~"),
            _canonical_query(query),
            *(f"{name}:{' '.join(headers.get(name, '').split())}" for name in names),
            "",
            match["headers"],
            hashlib.sha256(body).hexdigest(),
        )
    )
    text = "\n".join(("AWS4-HMAC-SHA256", stamp, match["scope"], hashlib.sha256(canonical.encode()).hexdigest()))
    key = f"AWS4{secret_key}".encode()
    for part in (match["date"], match["region"], match["service"], "aws4_request"):
        key = _hmac(key, part)
    return hmac.compare_digest(_hmac(key, text).hex(), match["signature"])


def _is_fresh(stamp: str, now: datetime) -> bool:
    try:
        then = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return False
    return abs((now - then).total_seconds()) <= SKEW_SECONDS


def _canonical_query(query: str) -> str:
    pairs = (map(unquote_plus, part.partition("=")[::2]) for part in query.split("&") if part)
    return "&".join(sorted(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in pairs))


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
