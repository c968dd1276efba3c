"""An OIDC issuer's public keys (JWKS): discovered, cached, and fetched again when the issuer rotates them.

https://openid.net/specs/openid-connect-discovery-1_0.html. Keys come from the issuer that the settings name and from
nowhere else: what a token says of keys (`jku`, `jwk`, `x5u`) is not read. A key id that is not known is looked up once
more, so that a rotation needs no restart, but no more than every half minute, so that made-up ids cost the issuer
nothing. While the issuer cannot be reached, keys that are not a day old serve on.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, Final

from batch_pipeline.log import Facts
from batch_pipeline.wire.errors import BackendFailed, InvalidConfig
from batch_pipeline.wire.https import is_safe, opener_for

_LOG: Final = logging.getLogger(__name__)
FRESH_SECONDS: Final = 3600.0
STALE_SECONDS: Final = 86_400.0
#: Between two fetches, whatever key ids tokens name.
COOLDOWN_SECONDS: Final = 30.0
_TIMEOUT_SECONDS: Final = 10
_MOST_BYTES: Final = 1 << 20


class IssuerUnreachable(BackendFailed):
    """The issuer of identity tokens cannot be asked for its keys. Try again later."""

    transient = True


class IssuerKeys:
    """The keys of one issuer, by their ids. Safe to share between threads."""

    def __init__(self, issuer: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        if not is_safe(issuer):
            raise InvalidConfig(f"server.issuer {issuer!r} must be an https URL (http is allowed for localhost only).")
        self.issuer = issuer
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: dict[str, Mapping[str, Any]] = {}
        self._fetched = self._tried = float("-inf")
        self._opener = opener_for(issuer)

    def key(self, key_id: str) -> Mapping[str, Any] | None:
        """The key as the issuer publishes it; None: it has no such key. Raises IssuerUnreachable."""
        known = self._keys.get(key_id)
        if known is not None and self._age() <= FRESH_SECONDS:
            return known  # no request waits for a slow issuer whose key is here
        with self._lock:
            if self._clock() - self._tried > COOLDOWN_SECONDS:
                self._refresh()
            if self._age() > STALE_SECONDS:
                raise IssuerUnreachable
            return self._keys.get(key_id)

    def _age(self) -> float:
        return self._clock() - self._fetched

    def _refresh(self) -> None:
        self._tried = self._clock()
        try:
            self._keys = self._published()
            self._fetched = self._clock()
            _LOG.info("issuer's keys fetched %s", Facts(issuer=self.issuer, key_ids=",".join(sorted(self._keys))))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _LOG.warning("The keys of the issuer %s cannot be fetched: %s", self.issuer, error)
            if self._age() > STALE_SECONDS:
                raise IssuerUnreachable from error

    def _published(self) -> dict[str, Mapping[str, Any]]:
        document = self._fetch(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
        if document["issuer"] != self.issuer:
            raise ValueError("The document is another issuer's.")
        if not is_safe(document["jwks_uri"]):
            raise ValueError("The keys are not served by https.")
        keys = self._fetch(document["jwks_uri"])["keys"]
        return {key["kid"]: key for key in keys if key.get("kid") and key.get("use", "sig") == "sig"}

    def _fetch(self, url: str) -> Any:
        request = urllib.request.Request(url, headers={"Accept": "application/json"})
        with self._opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
            data = answer.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ValueError("The document is too large.")
        return json.loads(data)
