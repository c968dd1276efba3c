"""Puts the JSON-LD contexts that the validator of RO-Crates would fetch into its cache: `warm_contexts.py FILE CACHE`.

Run by the Python of the validator's environment (`scripts/install.sh crates`); FILE maps URLs to contexts, in JSON.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

from requests import Request, Response
from requests_cache import CachedSession
from urllib3 import HTTPResponse


def main(contexts: str, cache: str) -> None:
    """Fills the cache."""
    session = CachedSession(cache, expire_after=-1)
    for url, context in json.loads(Path(contexts).read_text(encoding="utf-8")).items():
        response = Response()
        response.status_code, response.reason, response.url = 200, "OK", url
        response.headers["Content-Type"] = "application/ld+json"
        response.request = session.prepare_request(Request("GET", url))
        body = io.BytesIO(json.dumps(context).encode())
        response.raw = HTTPResponse(body=body, status=200, headers=response.headers, preload_content=False)
        session.cache.save_response(response)


if __name__ == "__main__":
    main(*sys.argv[1:])
