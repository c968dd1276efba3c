"""Images by what a registry says of them: a real HTTP server on loopback that speaks the registries' API."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from batch_pipeline.access.images import ask_registry, image_facts, image_name
from batch_pipeline.wire.errors import BackendFailed, Refused

DIGEST = "sha256:" + "ab" * 32


class Registry(BaseHTTPRequestHandler):
    """Knows one image, in a repository that anybody may read, and one that wants a password."""

    def do_HEAD(self) -> None:
        private = self.path.startswith("/v2/private/")
        known = self.path in ("/v2/team/driver/manifests/1", f"/v2/team/driver/manifests/{DIGEST}")
        self.send_response(401 if private else 500 if "broken" in self.path else 200 if known else 404)
        if private:
            self.send_header("WWW-Authenticate", 'Basic realm="registry"')
        if known:
            self.send_header("Docker-Content-Digest", DIGEST)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_tag_is_resolved_to_what_it_leads_to_now(host: str) -> None:
    found = image_facts(f"{host}/team/driver:1")
    assert found is not None
    assert (found.repository, found.tag, found.digest) == (f"{host}/team/driver", "1", DIGEST)
    assert found.pinned == f"{host}/team/driver@{DIGEST}"


def test_a_digest_is_asked_for_too(host: str) -> None:
    found = image_facts(f"{host}/team/driver@{DIGEST}")
    assert found is not None
    assert (found.digest, found.asked_digest) == (DIGEST, DIGEST)


def test_an_image_that_is_not_there_has_no_digest(host: str) -> None:
    assert ask_registry(image_name(f"{host}/team/driver:2")) == ""


@pytest.mark.parametrize("path", ["private/driver:1", "broken/driver:1"])
def test_a_registry_that_does_not_tell_is_an_error_and_no_digest(path: str, host: str) -> None:
    with pytest.raises(BackendFailed, match=r"registry|password"):
        ask_registry(image_name(f"{host}/{path}"))


def test_nobody_there_is_an_error() -> None:
    with pytest.raises(BackendFailed, match="cannot be asked"):
        ask_registry(image_name("127.0.0.1:9/team/driver:1"))


@pytest.mark.parametrize(
    "name",
    ["driver", "driver:1", "team/driver:1", "https://x.org/driver", "x.org/Driver", "x.org/../driver", "x.org/a b:1",
     "x.org/driver:1@sha256:ab", "-x.org/driver", "x.org/driver:1\n"],
)  # fmt: skip
def test_a_name_without_its_registry_or_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(Refused) as caught:
        image_name(name)
    assert caught.value.status == 400


def test_no_image_has_no_facts() -> None:
    assert image_facts("") is None
