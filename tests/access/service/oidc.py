"""An OIDC issuer of our own on loopback: discovery, keys that can be changed, tokens good and forged."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE = "batch-pipeline-tests"


@cache
def rsa_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """A key by any name, made once."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def published(key: Any, key_id: str, **more: Any) -> dict[str, Any]:
    """The public half, as an issuer tells it."""
    kind: Any = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    value: dict[str, Any] = kind.to_jwk(key.public_key(), as_dict=True)
    return {**value, "kid": key_id, "use": "sig", **more}


class Issuer:
    """It serves what `documents` holds, and counts what it is asked."""

    def __init__(self) -> None:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                value = issuer.documents.get(self.path)
                if isinstance(value, str):
                    self.send_response(302)
                    self.send_header("Location", value)
                    self.end_headers()
                    return
                body = json.dumps(value).encode()
                self.send_response(200 if value is not None else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.asked: list[str] = []
        self.documents: dict[str, Any] = {}
        self.reset()
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def reset(self) -> None:
        self.asked.clear()
        self.documents = {
            "/.well-known/openid-configuration": {"issuer": self.url, "jwks_uri": f"{self.url}/keys"},
            "/keys": {"keys": [published(rsa_key("one"), "one"), published(ec_key("two"), "two")]},
        }

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Those of a good token of alice's; None takes one out."""
        now = int(time.time())
        base = {"iss": self.url, "aud": AUDIENCE, "sub": "u-1", "iat": now, "exp": now + 600}
        told = {**base, "email": "alice@example.org", "email_verified": True, **changes}
        return {name: value for name, value in told.items() if value is not None}

    def token(
        self,
        key: Any = None,
        algorithm: str = "RS256",
        key_id: str = "one",
        header: Mapping[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        signed_by = rsa_key("one") if key is None else key
        return jwt.encode(
            self.claims(**claims), signed_by, algorithm=algorithm, headers={"kid": key_id, **(header or {})}
        )

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
