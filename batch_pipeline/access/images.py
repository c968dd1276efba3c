"""What a registry itself says of an image: its digest, by the API that all registries have.

https://distribution.github.io/distribution/spec/api/ — one HEAD of the manifest, with a bearer token where the registry
tells where to get one. A registry that wants a password is read through a `Resolver`: ECR by the backend's own
clients. What comes back is what runs: jobs name the digest, so a tag that moves afterwards changes nothing.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode, urlsplit

from batch_pipeline.access.request import ImageFacts
from batch_pipeline.wire.errors import BackendFailed, Problem, Refused

#: Image by repository and tag or digest -> its digest; empty: there is none.
Resolver = Callable[["ImageName"], str]

_NAME: Final = re.compile(
    r"(?P<repository>(?P<host>[a-z0-9][a-z0-9.-]*(:[0-9]{1,5})?)/(?P<path>[a-z0-9]+([._/-]+[a-z0-9]+)*))"
    r"(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_KINDS: Final = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
_SECONDS: Final = 20
_LOOPBACK: Final = ("localhost", "127.0.0.1")


@dataclass(frozen=True, kw_only=True)
class ImageName:
    """An image as it is written: `host/path:tag@digest`."""

    host: str
    #: Within the registry.
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        """Without tag and digest."""
        return f"{self.host}/{self.path}"

    @property
    def reference(self) -> str:
        """What stands for the manifest: the tag, for what it leads to now; without one the digest."""
        return self.tag or self.digest or "latest"


def image_name(image: str) -> ImageName:
    """Takes an image's name apart. Raises Refused for one that is none."""
    parts = _NAME.fullmatch(image)
    if parts is None or not ("." in parts["host"] or ":" in parts["host"] or parts["host"] == "localhost"):
        raise Refused(
            [
                Problem(
                    subject=f"--image {image!r}",
                    rule="An image is registry/name:tag or registry/name@sha256:… in full.",
                    remedy="Name the registry too.",
                )
            ]
        )
    return ImageName(host=parts["host"], path=parts["path"], tag=parts["tag"] or "", digest=parts["digest"] or "")


def image_facts(image: str, resolve: Resolver | None = None) -> ImageFacts | None:
    """What the registry says of an image; None for none. Raises Refused, BackendFailed."""
    if not image:
        return None
    name = image_name(image)
    return ImageFacts(
        repository=name.repository, tag=name.tag, digest=(resolve or ask_registry)(name), asked_digest=name.digest
    )


def ask_registry(name: ImageName) -> str:
    """The digest of an image in a registry that anybody may read. Raises BackendFailed when it does not answer."""
    host = name.host.partition(":")[0]
    url = f"{'http' if host in _LOOPBACK else 'https'}://{name.host}/v2/{name.path}/manifests/{name.reference}"
    try:
        try:
            return _digest(url, "")
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
            return _digest(url, _token(error.headers.get("WWW-Authenticate", "")))
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return ""
        raise BackendFailed(f"The registry {name.host} answered {error.code} for {name.repository}.") from error
    except (OSError, ValueError) as error:
        raise BackendFailed(f"The registry {name.host} cannot be asked ({error}). Try again.") from error


def _digest(url: str, token: str) -> str:
    request = urllib.request.Request(url, method="HEAD", headers={"Accept": _KINDS})
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
        return str(answer.headers.get("Docker-Content-Digest", ""))


def _token(challenge: str) -> str:
    """An anonymous token, from where the registry says. Raises BackendFailed when it wants a password."""
    kind, _, rest = challenge.partition(" ")
    parameters = dict(re.findall(r'(\w+)="([^"]*)"', rest))
    realm = parameters.pop("realm", "")
    if kind.lower() != "bearer" or urlsplit(realm).scheme != "https":
        raise BackendFailed("The registry wants a password. Use one in ECR, or one that anybody may read.")
    with urllib.request.urlopen(f"{realm}?{urlencode(parameters)}", timeout=_SECONDS) as answer:
        value = json.load(answer)
    return str(value.get("token") or value.get("access_token") or "")
