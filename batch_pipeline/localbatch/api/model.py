"""Checks requests against botocore's own model of AWS Batch and CloudWatch Logs.

The model knows operations, members, types and enumerations; the limits that it does not hold are with the handlers.
botocore is imported here and nowhere else on the server's side, and only its model and validator: loading them takes
some 60 ms, loading boto3 seven times that.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, unquote

import botocore
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from batch_pipeline.localbatch.engine.job import Document
from batch_pipeline.wire.errors import ContractBroken
from batch_pipeline.wire.toolchain import HEADER, Toolchain, toolchain_of

_VERSIONS = {"batch": "2016-08-10", "logs": "2014-03-28"}


class ApiError(Exception):
    """An answer with an error in AWS's shape."""

    def __init__(self, message: str, *, code: str = "ClientException", status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.message = message


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiRequest:
    """One API call: which operation, with which parameters."""

    operation: str
    parameters: Document
    #: With what the jobs that it submits run; None: with the server's own.
    toolchain: Toolchain | None = None


class Models:
    """The operations of the two services and their parameters."""

    def __init__(self) -> None:
        self._services = {name: _load(name, version) for name, version in _VERSIONS.items()}
        self._validator = ParamValidator()
        self._routes = [
            (operation.http["method"], _pattern(operation.http["requestUri"]), operation.name)
            for operation in map(self._services["batch"].operation_model, self._services["batch"].operation_names)
        ]

    def parse(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> ApiRequest:
        """Reads an HTTP request; the only parameters in a query are lists, and the only header that matters is ours.

        Raises
        ------
        ApiError
            There is no such operation, or its parameters do not fit the service's model.
        """
        target = headers.get("X-Amz-Target")
        document = _document(body)
        if target:
            service, operation = "logs", target.rpartition(".")[2]
        else:
            service = "batch"
            place, _, query = path.partition("?")
            operation, in_path = self._route(method, place)
            document.update(in_path)
            document.update(parse_qs(query))
        if operation not in self._services[service].operation_names:
            raise ApiError(f"Unknown operation {operation!r}.", code="UnknownOperationException", status=404)
        self.check(service, operation, document)
        return ApiRequest(operation=operation, parameters=document, toolchain=_toolchain(headers.get(HEADER)))

    def check(self, service: str, operation: str, parameters: Document) -> None:
        """Refuses parameters that the service's model does not allow."""
        shape = self._services[service].operation_model(operation).input_shape
        if shape is None:
            return
        report = self._validator.validate(parameters, shape)
        if report.has_errors():
            code = "ClientException" if service == "batch" else "InvalidParameterException"
            raise ApiError(f"Error executing request, Exception : {report.generate_report()}", code=code)
        if service == "batch":
            _check_enums(parameters, shape, "")

    def _route(self, method: str, path: str) -> tuple[str, Document]:
        for route_method, pattern, name in self._routes:
            match = pattern.fullmatch(path) if route_method == method else None
            if match:
                return name, {key: unquote(value) for key, value in match.groupdict().items()}
        raise ApiError(f"Unknown operation {method} {path}.", code="UnknownOperationException", status=404)


def _load(name: str, version: str) -> ServiceModel:
    path = Path(botocore.__file__).parent / "data" / name / version / "service-2.json.gz"
    with gzip.open(path) as stream:
        document = json.load(stream)
    for shape in document["shapes"].values():
        shape.pop("documentation", None)
    return ServiceModel(document, name)


def _pattern(uri: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+)", re.escape(uri)))


def _document(body: bytes) -> Document:
    try:
        document = json.loads(body or b"{}")
    except ValueError as error:
        raise ApiError("Could not parse request body into json.", code="SerializationException") from error
    if not isinstance(document, dict):
        raise ApiError("The request body must be a JSON object.", code="SerializationException")
    return document


def _toolchain(header: str | None) -> Toolchain | None:
    try:
        return toolchain_of(header) if header else None
    except ContractBroken as error:
        raise ApiError(error.message) from error


def _check_enums(value: object, shape: object, where: str) -> None:
    """botocore's validator leaves enumerations to the service."""
    kind = getattr(shape, "type_name", "")
    if kind == "structure" and isinstance(value, dict):
        for name, member in shape.members.items():  # type: ignore[attr-defined]
            if name in value:
                _check_enums(value[name], member, f"{where}{name}.")
    elif kind == "list" and isinstance(value, list):
        for item in value:
            _check_enums(item, shape.member, where)  # type: ignore[attr-defined]
    elif kind == "string":
        allowed = shape.enum  # type: ignore[attr-defined]
        if allowed and str(value).upper() not in allowed and value not in allowed:
            raise ApiError(
                f"Error executing request, Exception : {where.rstrip('.')} must be one of {', '.join(allowed)}"
            )
