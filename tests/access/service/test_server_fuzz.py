"""The service against its own OpenAPI: whatever schemathesis makes of it is answered as told there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import schemathesis
from hypothesis import assume, given
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.access.service.lab import Lab
from tests.access.service.oidc import Issuer
from tests.access.service.serving import served
from tests.examples import examples

pytestmark = pytest.mark.slow

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    negative_data_rejection,
    unsupported_method,
    ignored_auth,
]
#: Examples an operation.
EXAMPLES = 60


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, _issuer: Issuer) -> Lab:
    _issuer.reset()
    made = Lab(tmp_path_factory.mktemp("fuzz"), _issuer)
    made.record(done=3)
    made.result("cohort-7/table.tsv", b"x" * 1000)
    return made


@pytest.fixture(scope="module")
def url(lab: Lab) -> Iterator[str]:
    with served(lab.app()) as found:
        yield found


OPERATIONS = [
    *("POST /runs", "GET /runs", "GET /runs/{run_id}", "GET /runs/{run_id}/report"),
    *("GET /health", "GET /{dataset}/{level}/{path}"),
]


#: Health takes nothing that could be wrong.
CASES = [
    pytest.param(operation, mode, id=f"{operation} {mode.value}")
    for operation in OPERATIONS
    for mode in GenerationMode
    if operation != "GET /health" or mode is GenerationMode.POSITIVE
]


def test_all_operations_are_fuzzed(lab: Lab) -> None:
    paths = lab.client().get("/openapi.json").json()["paths"]
    assert sorted(f"{method.upper()} {path}" for path in paths for method in paths[path]) == sorted(OPERATIONS)


@pytest.mark.parametrize(("operation", "mode"), CASES)
def test_an_operation_answers_as_it_says(operation: str, mode: GenerationMode, url: str, lab: Lab) -> None:
    method, _, path = operation.partition(" ")
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    headers = {"Authorization": f"Bearer {lab.issuer.token()}"}
    statuses: set[int] = set()

    @examples(EXAMPLES)
    @given(schema[path][method].as_strategy(generation_mode=mode))
    def fuzz(case: Any) -> None:
        response = case.call(headers=headers)
        # A parameter with an empty list for a value is not sent, and the request that should be wrong may be right.
        sent = parse_qs(urlsplit(response.request.url).query, keep_blank_values=True)
        assume(sent.keys() >= (case.query or {}).keys())
        statuses.add(response.status_code)
        case.validate_response(response, checks=CHECKS, headers=headers)

    fuzz()
    assert statuses


def test_asks_that_the_gate_lets_through_are_recorded_whatever_else_they_say(url: str, lab: Lab) -> None:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    headers = {"Authorization": f"Bearer {lab.issuer.token()}"}
    # What a member would ask; of the rest, anything.
    asked = lab.ask(repository="", commit="", image="", environment={}, cwd="")
    statuses: list[int] = []

    @examples(EXAMPLES)
    @given(schema["/runs"]["POST"].as_strategy())
    def fuzz(case: Any) -> None:
        case.body = {**(case.body if isinstance(case.body, dict) else {}), **asked}
        response = case.call(headers=headers)
        statuses.append(response.status_code)
        case.validate_response(response, checks=[not_a_server_error, status_code_conformance], headers=headers)
        if response.status_code == 201:
            assert lab.store().get(f"runs/{response.json()['run_id']}/config.toml")

    fuzz()
    assert statuses.count(201) > EXAMPLES // 3
