"""Calls on one CouchDB database over plain HTTP: counted, sent again where the connection broke, errors in our words.

Anything may be sent twice: a document is written on the condition of its revision, so that a second copy is refused,
and the writer finds its own nonce in the document.

Who calls is told by reference, never in the URL: `COUCHDB_USER` and `COUCHDB_PASSWORD` (or `COUCHDB_PASSWORD_FILE`, a
file that holds it), else the host's line in `~/.netrc` (or the file that `NETRC` names).
"""

from __future__ import annotations

import json
import logging
import os
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from batch_pipeline.log import Facts
from batch_pipeline.wire.errors import InvalidUse, PoolFailed

#: Answers after which the same may be asked again.
_AGAIN = (429, 502, 503, 504)
_LOG = logging.getLogger(__name__)


def credentials_for(host: str) -> tuple[str, str] | None:
    """User and password for a host, by reference; None: none are named.

    Raises
    ------
    InvalidUse
        A file that is named cannot be read.
    """
    user, password, file = (os.environ.get(f"COUCHDB_{name}", "") for name in ("USER", "PASSWORD", "PASSWORD_FILE"))
    try:
        if user:
            return user, Path(file).read_text().strip() if file else password
        path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
        login = netrc(path).authenticators(host) if path.exists() else None
    except OSError as error:
        raise InvalidUse(f"The password for CouchDB cannot be read: {error}. Name a file that you may read.") from error
    except NetrcParseError as error:
        # Its own words may quote the line, and that has the password.
        raise InvalidUse(f"{path} (line {error.lineno}) is not as netrc has it; correct it.") from None
    return (login[0], login[2] or "") if login else None


@dataclass(frozen=True, kw_only=True)
class View:
    """What a view answers."""

    rows: list[dict[str, Any]]
    #: How many rows the whole view has, where it is not reduced.
    total_rows: int


class Database:
    """One database."""

    def __init__(self, url: str, name: str) -> None:
        import urllib3

        parsed = urlsplit(url)
        if parsed.username or parsed.password:
            raise InvalidUse(
                "The URL of CouchDB holds a user or password, and URLs end up in logs. Take them out, and set "
                "COUCHDB_USER and COUCHDB_PASSWORD, or write them into ~/.netrc."
            )
        if parsed.scheme not in ("http", "https") or not parsed.hostname:
            raise InvalidUse(f"{url!r} is no URL of a CouchDB server; it looks like https://couchdb.example.org:6984.")
        self.name = f"{url.rstrip('/')}/{name}"
        #: What was asked -> how often it was sent.
        self.calls: Counter[str] = Counter()
        #: Writes that were refused because the document had changed.
        self.conflicts = 0
        self._headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if login := credentials_for(parsed.hostname):
            self._headers["Authorization"] = f"Basic {b64encode(':'.join(login).encode()).decode()}"
        self._errors: type[Exception] = urllib3.exceptions.HTTPError
        # Forwarding a password to where a server points to is no business of ours: redirects are errors.
        retries = urllib3.Retry(
            total=8,
            redirect=0,
            backoff_factor=0.05,
            backoff_max=5,
            backoff_jitter=0.1,
            status_forcelist=_AGAIN,
            allowed_methods=None,
            raise_on_status=False,
        )
        timeout = urllib3.Timeout(connect=5, read=60)
        self._pool = urllib3.PoolManager(maxsize=8, retries=retries, timeout=timeout)

    def call(
        self, method: str, path: str = "", body: Any = None, *, accept: Sequence[int] = (), **query: Any
    ) -> dict[str, Any]:
        """Asks and returns the answer; an answer with a status in `accept` is no error.

        Raises
        ------
        PoolFailed
            There was no answer, or one that is an error.
        """
        self.calls[f"{method} {path.rpartition('/')[2]}"] += 1
        parameters = {name: value if name == "rev" else json.dumps(value) for name, value in query.items()}
        url = f"{self.name}{path}" + (f"?{urlencode(parameters)}" if parameters else "")
        sent = json.dumps(body, ensure_ascii=False).encode() if body is not None else None
        try:
            answer = self._pool.request(method, url, body=sent, headers=self._headers)
            if answer.retries is not None and answer.retries.history:
                statuses = [attempt.status for attempt in answer.retries.history]
                _LOG.info("throttled or broken, retried %s", Facts(call=f"{method} {path}", statuses=statuses))
            body_json = json.loads(answer.data or b"{}")
        except self._errors as error:
            raise PoolFailed(
                f"CouchDB's database {self.name} could not be reached: {error}. Check the network and the URL, then "
                "run the same command again."
            ) from error
        except ValueError as error:
            raise PoolFailed(f"{self.name} answers with something that is not JSON; is it a CouchDB?") from error
        if answer.status >= 400 and answer.status not in accept:
            raise self._refused(answer.status, body_json)
        return body_json if isinstance(body_json, dict) else {"rows": body_json}

    def _refused(self, status: int, answer: Mapping[str, Any]) -> PoolFailed:
        error_text = f"{status} {answer.get('error', '')}: {answer.get('reason', '')}"
        remedy = _REMEDIES.get(status, "Look at the server's log, then run the same command again.")
        error = PoolFailed(f"CouchDB's database {self.name} could not be used ({error_text}). {remedy}")
        error.transient = status in _AGAIN or status >= 500
        return error

    def documents(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The documents of these ids that are there, as they stand now."""
        if not ids:
            return {}
        rows = self.call("POST", "/_all_docs", {"keys": list(ids)}, include_docs=True)["rows"]
        return {row["id"]: row["doc"] for row in rows if row.get("doc")}

    def view(self, design: str, name: str, keys: Sequence[Any] | None = None, **query: Any) -> View:
        """Rows of a view."""
        path = f"/_design/{quote(design, safe='')}/_view/{name}"
        body = {"keys": list(keys)} if keys is not None else None
        response = self.call("GET" if body is None else "POST", path, body, **query)
        return View(rows=response["rows"], total_rows=response.get("total_rows", 0))

    def save(self, documents: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """Writes each document if its revision still is the one that it has; returns new revisions, None where not.

        Raises
        ------
        PoolFailed
            Not even that could be asked, or a document was refused for another reason than its revision.
        """
        if not documents:
            return []
        answers = self.call("POST", "/_bulk_docs", {"docs": list(documents)})["rows"]
        for answer in answers:
            if answer.get("error", "conflict") != "conflict":
                error_text = f"{answer['error']}: {answer.get('reason', '')}"
                raise PoolFailed(f"CouchDB's database {self.name} refused document {answer.get('id')} ({error_text}).")
        return [answer.get("rev") if "error" not in answer else None for answer in answers]

    def close(self) -> None:
        """Closes the connections."""
        self._pool.clear()


_REMEDIES = {
    401: "Set COUCHDB_USER and COUCHDB_PASSWORD, or write them into ~/.netrc.",
    403: "Ask its administrator to make you a member of it.",
    404: "Create it with `batch-pipeline pool init`, or name another database.",
}
