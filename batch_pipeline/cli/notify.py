"""Notifies of the end of a run: POSTs the event `ended` to a webhook, and gives it to a program.

Whoever follows the run does it: `run`, `watch`, the driver of `--driver batch`. What cannot be told is a warning and
changes no exit code. The URL of a webhook is often a secret by itself, so that of it no more than its host is printed.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from batch_pipeline.backends.account import Inspectable, NotVisible
from batch_pipeline.config import Settings
from batch_pipeline.wire.errors import BackendFailed, ContractBroken, InvalidUse
from batch_pipeline.wire.https import is_safe, opener_for
from batch_pipeline.wire.order import secret_variable, token_of

#: Seconds for one attempt to connect and be answered, and between attempts: exponential back-off.
TIMEOUT_SECONDS: Final = 10.0
BACK_OFF_SECONDS: Final = (1.0, 4.0)
COMMAND_SECONDS: Final = 60.0
#: Statuses below 500 that another attempt may not have: request timeout, too many requests.
_TRANSIENT: Final = (408, 429)
_REFERENCES: Final = ("env:", "file:", "secretsmanager:")


@dataclass(frozen=True, kw_only=True)
class Notifier:
    """Who is notified."""

    #: Empty: no webhook.
    url: str = field(default="", repr=False)
    #: Empty: no program.
    command: tuple[str, ...] = ()

    def notify(self, event: Mapping[str, Any], *, sleep: Callable[[float], None] = time.sleep) -> Iterator[str]:
        """Sends an event, and yields a sentence for each place that it did not reach. Takes 95 seconds at the most."""
        body = json.dumps(event, ensure_ascii=False).encode()
        if self.url and (problem := self._post(body, sleep)):
            yield f"{urlsplit(self.url).hostname} was not notified: {problem.rstrip('.')}. Check notify.url."
        if self.command and (problem := self._run(body)):
            yield f"The program {self.command[0]} was not notified: {problem.rstrip('.')}. Check notify.command."

    def _post(self, body: bytes, sleep: Callable[[float], None]) -> str:
        """POSTs to the webhook, again after transient errors; returns why the last attempt failed."""
        request = urllib.request.Request(
            self.url, data=body, headers={"Content-Type": "application/json"}, method="POST"
        )
        problem = ""
        for pause in (*BACK_OFF_SECONDS, None):
            try:
                with opener_for(self.url).open(request, timeout=TIMEOUT_SECONDS):
                    return ""
            except urllib.error.HTTPError as error:
                error.close()
                problem = f"it answered {error.code}"
                if error.code < 500 and error.code not in _TRANSIENT:
                    return problem
            except OSError as error:
                problem = str(getattr(error, "reason", error))
            except (HTTPException, ValueError) as error:
                # Their texts may hold the URL.
                return type(error).__name__
            if pause is not None:
                sleep(pause)
        return problem

    def _run(self, body: bytes) -> str:
        """Runs the program; returns why that failed. What it prints goes to stderr."""
        try:
            ended = subprocess.run(
                self.command,
                input=body,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"it was ended after {COMMAND_SECONDS:.0f} s"
        except (OSError, ValueError) as error:
            return str(getattr(error, "strerror", None) or error)
        lines = ended.stdout.decode(errors="replace").strip().splitlines()
        return f"it ended with {ended.returncode}{f' ({lines[-1][:200]})' if lines else ''}" if ended.returncode else ""


def notifier_of(settings: Settings) -> Notifier:
    """The notifier that the settings name. Raises InvalidUse for a secret that is not there or a URL that is unsafe."""
    notify = settings.notify
    url = _secret_of(notify.url, settings) if notify.url.startswith(_REFERENCES) else notify.url
    if url and not is_safe(url) and not (notify.allow_http and url.startswith("http://")):
        host = _host_of(url)
        raise InvalidUse(
            f"notify.url must be an https URL without user and fragment (http is allowed for localhost only), and the"
            f" one of {host or 'no host'} is none. Correct it, or set notify.allow_http."
        )
    try:
        command = tuple(shlex.split(notify.command))
    except ValueError as error:
        raise InvalidUse(f"notify.command cannot be split into words: {error}. Correct its quotes.") from error
    return Notifier(url=url, command=command)


def _secret_of(reference: str, settings: Settings) -> str:
    """The URL that a reference leads to: Secrets Manager is asked where AWS did not hand the secret to this job."""
    name = reference.partition(":")[2]
    if reference.startswith("secretsmanager:") and secret_variable(reference) not in os.environ:
        from batch_pipeline import backends

        with closing(backends.create(settings)) as backend:
            try:
                return backend.account.secret(name) if isinstance(backend, Inspectable) else ""
            except (BackendFailed, NotVisible) as error:
                raise InvalidUse(
                    f"The secret {name} of notify.url cannot be read: {error}. See to its rights."
                ) from error
    if reference.startswith("file:"):
        reference = f"file:{Path(name).expanduser()}"
    try:
        return token_of(reference, {})
    except ContractBroken as error:
        raise InvalidUse(f"{error.message.rstrip('.')}. notify.url names it.") from error


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
