"""Signatures of AWS requests, against those that botocore makes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials

from batch_pipeline.localbatch.api.signature import SKEW_SECONDS, is_signed

HOST = "127.0.0.1:80"
EMPTY: Mapping[str, str] = {}
BODY = b'{"jobs": []}'


class Thorough(SigV4Auth):
    """A client that signs every header, as AWS's SDK for Java does."""

    def headers_to_sign(self, request: AWSRequest) -> HTTPHeaders:
        return HTTPHeaders.from_pairs((name.lower(), text) for name, text in request.headers.items())


def request(
    url: str = "/v1/describejobs",
    *,
    method: str = "POST",
    signer: type[SigV4Auth] = SigV4Auth,
    headers: Mapping[str, str] = EMPTY,
) -> dict[str, Any]:
    """The parameters of `is_signed` for a request that was signed just now."""
    made: Any = AWSRequest(method, f"http://{HOST}{url}", data=BODY, headers={"Host": HOST, **headers})
    signer(Credentials("key", "secret"), "batch", "us-east-1").add_auth(made)
    path, _, query = url.partition("?")
    return {
        "method": method,
        "path": path,
        "query": query,
        "headers": made.headers,
        "body": BODY,
        "access_key": "key",
        "secret_key": "secret",
        "now": datetime.now(UTC),
    }


@pytest.mark.parametrize(
    "url",
    [
        "/v1/describejobs",
        "/v1/tags/arn%3Aaws%3Abatch%3Aus-east-1%3A000000000000%3Ajob-queue%2Fq",
        "/v1/tags/x?tagKeys=b%20c&tagKeys=a%2Fd",
        "/v1/tags/x?tagKeys=",
    ],
)
def test_what_botocore_signed_is_signed(url: str) -> None:
    assert is_signed(**request(url))
    assert is_signed(**request(url, method="DELETE"))


def test_headers_that_botocore_does_not_sign_may_be_signed() -> None:
    headers = {"User-Agent": "aws-sdk-java/1.12", "X-Amzn-Trace-Id": "a"}
    assert is_signed(**request(signer=Thorough, headers=headers))


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "GET"},
        {"path": "/v1/terminatejob"},
        {"query": "a=b"},
        {"body": b"{}"},
        {"access_key": "other"},
        {"secret_key": "other"},
    ],
)
def test_a_signature_is_for_one_request_and_one_key(changed: dict[str, Any]) -> None:
    assert not is_signed(**{**request(), **changed})


@pytest.mark.parametrize("header", ["Host", "X-Amz-Date"])
def test_a_signed_header_that_was_changed_is_refused(header: str) -> None:
    parameters = request()
    parameters["headers"].replace_header(header, "20000101T000000Z")
    assert not is_signed(**parameters)


def test_the_host_and_the_time_must_be_signed() -> None:
    parameters = request()
    signature = parameters["headers"]["Authorization"]
    for name in ("host;", ";x-amz-date"):
        assert name in signature
        parameters["headers"].replace_header("Authorization", signature.replace(name, ""))
        assert not is_signed(**parameters)


def test_a_body_is_checked_whatever_a_header_says_of_it() -> None:
    parameters = request(headers={"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"})
    assert not is_signed(**parameters)


@pytest.mark.parametrize(("seconds", "fresh"), [(SKEW_SECONDS - 5, True), (SKEW_SECONDS + 5, False)])
def test_clocks_may_differ_by_a_quarter_of_an_hour(seconds: float, fresh: bool) -> None:
    parameters = request()
    for difference in (timedelta(seconds=seconds), timedelta(seconds=-seconds)):
        assert is_signed(**{**parameters, "now": parameters["now"] + difference}) is fresh


@pytest.mark.parametrize("stamp", ["", "today"])
def test_a_time_that_is_none_is_refused(stamp: str) -> None:
    parameters = request()
    parameters["headers"].replace_header("X-Amz-Date", stamp)
    assert not is_signed(**parameters)
