"""Client of a service, for what this machine may not do itself: `submit --server-url`, `runs --server-url`.

The identity token comes from where the settings say (`env:NAME`, `file:PATH`), goes to the service by https alone, and
is printed and logged nowhere. What the gate refuses there is Refused here, problem by problem.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from batch_pipeline.access.request import SubmitRequest
from batch_pipeline.config import Settings
from batch_pipeline.wire.errors import BackendFailed, InvalidUse, Problem, Refused
from batch_pipeline.wire.https import is_safe, opener_for

_SECONDS: Final = 120
_MOST_BYTES: Final = 64 << 20


class ServiceUnreachable(BackendFailed):
    """The service cannot be reached, or could not do it now. Try again later."""

    transient = True


class ServiceClient:
    """One service, asked in one person's name."""

    def __init__(self, url: str, token: str) -> None:
        if not is_safe(url):
            raise InvalidUse(
                f"The service {url} would get your identity token over plain http, where others can read it. Give its"
                " https URL (http is for this machine alone)."
            )
        self._url = url.rstrip("/")
        self._token = token
        # A redirect would take the token along.
        self._opener = opener_for(url)

    def start(self, submit_request: SubmitRequest) -> dict[str, Any]:
        """Has a run started: its id, where it writes, its page. Raises Refused, InvalidUse, ServiceUnreachable."""
        return self._request("POST", "/runs", asdict(submit_request))

    def runs(self, filters: Mapping[str, Any]) -> dict[str, Any]:
        """The runs that fit. Raises InvalidUse, ServiceUnreachable."""
        return self._request("GET", f"/runs?{urlencode({name: value for name, value in filters.items() if value})}")

    def run(self, run_id: str) -> dict[str, Any]:
        """One run. Raises InvalidUse, ServiceUnreachable."""
        return self._request("GET", f"/runs/{quote(run_id, safe='')}")

    def page(self, path: str) -> str:
        """The whole URL of a page."""
        return f"{self._url}{path}"

    def _request(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        request = urllib.request.Request(self._url + path, data=data, headers=headers, method=method)
        try:
            with self._opener.open(request, timeout=_SECONDS) as answer:
                value: dict[str, Any] = json.loads(answer.read(_MOST_BYTES))
                return value
        except urllib.error.HTTPError as error:
            with error:
                raise self._error(error.code, error.read(_MOST_BYTES)) from error
        except (OSError, ValueError) as error:
            sentence = f"The service {self._url} cannot be asked: {getattr(error, 'reason', error)}. Check server.url."
            # Nothing is sent twice by itself: a run whose answer was lost is there.
            doubt = " It may have started the run all the same: look at its runs before you ask again."
            raise ServiceUnreachable(sentence + (doubt if method == "POST" else "")) from error

    def _error(self, status: int, data: bytes) -> InvalidUse | ServiceUnreachable:
        try:
            answer = json.loads(data)
            problems = [Problem(subject=problem.pop("thing"), **problem) for problem in answer["problems"]]
            sentence = f"{answer['error']} (request {answer['request_id']})"
        except (ValueError, TypeError, KeyError, AttributeError):
            problems, sentence = [], f"It answered {status}, and not as such a service does. Check server.url."
        if problems:
            return Refused(problems)
        kind = ServiceUnreachable if status >= 500 or status == 429 else InvalidUse
        return kind(f"The service {self._url}: {sentence}")


def client_of(settings: Settings) -> ServiceClient:
    """The service that the settings name. Raises InvalidUse when there is no token."""
    return ServiceClient(settings.server.url, token_of(settings.server.token))


def token_of(reference: str) -> str:
    """The token that a reference leads to. Raises InvalidUse."""
    kind, _, name = reference.partition(":")
    if kind == "file":
        try:
            token = Path(name).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidUse(f"The identity token cannot be read from {name}. Check server.token.") from error
    else:
        token = os.environ.get(name, "").strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidUse(f"There is no identity token in {reference}. Put one there, or say where by server.token.")
    return token
