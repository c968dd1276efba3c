"""Parts of an HTTP client of the standard library: https or loopback only, no redirects, the environment's proxies."""

from __future__ import annotations

import urllib.request
from typing import Any
from urllib.parse import urlsplit

from batch_pipeline.wire.loopback import is_loopback


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect might lead from https to anywhere, and take a token along."""

    def redirect_request(self, *_: Any) -> None:
        """Leads nowhere: the redirect itself is the error."""


def opener_for(url: str) -> urllib.request.OpenerDirector:
    """Opens URLs of one server: follows no redirect, and uses no proxy where the server is this machine."""
    return urllib.request.build_opener(_proxies(url), NoRedirects())


def is_safe(url: str) -> bool:
    """Whether what is fetched from a URL cannot be changed on the way: https, or this very machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    plain = parts.username is None and not parts.fragment
    return plain and bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))


def _proxies(url: str) -> urllib.request.ProxyHandler:
    return urllib.request.ProxyHandler({} if is_loopback(urlsplit(url).hostname or "") else None)
