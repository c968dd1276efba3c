"""Which identity tokens are believed, and the attempts to be somebody else."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, hmac, serialization

from batch_pipeline.access.service.keys import (
    COOLDOWN_SECONDS,
    FRESH_SECONDS,
    STALE_SECONDS,
    IssuerKeys,
    IssuerUnreachable,
)
from batch_pipeline.access.service.tokens import MOST_CHARACTERS, TokenRefused, TokenRules, Verifier
from batch_pipeline.wire.errors import InvalidConfig
from tests.access.service.lab import Lab
from tests.access.service.oidc import AUDIENCE, Issuer, ec_key, published, rsa_key


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def verifier(issuer: Issuer, clock: Clock | None = None, **rules: Any) -> Verifier:
    keys = IssuerKeys(issuer.url, clock=clock or time.monotonic)
    return Verifier(keys, TokenRules(**{"audience": AUDIENCE, **rules}))


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _signed_by_hand(header: dict[str, Any], claims: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
    body = f"{_b64(json.dumps(header).encode())}.{_b64(json.dumps(claims).encode())}"
    return f"{body}.{_b64(sign(body.encode()))}"


def test_a_good_token_names_its_owner(issuer: Issuer) -> None:
    identity = verifier(issuer).identity(issuer.token())
    assert (identity.name, identity.source) == ("alice@example.org", "oidc")


def test_a_token_by_an_elliptic_curve_is_as_good(issuer: Issuer) -> None:
    token = issuer.token(ec_key("two"), "ES256", "two")
    assert verifier(issuer).identity(token).name == "alice@example.org"


def test_the_subject_names_somebody_where_the_settings_say_so(issuer: Issuer) -> None:
    token = issuer.token(email=None, email_verified=None)
    assert verifier(issuer, claim="sub").identity(token).name == "u-1"


def alg_none(issuer: Issuer) -> str:
    header = {"alg": "none", "kid": "one", "typ": "JWT"}
    return _signed_by_hand(header, issuer.claims(), lambda _: b"x")


def no_signature(issuer: Issuer) -> str:
    return issuer.token().rsplit(".", 1)[0] + "."


def hmac_with_the_public_key(issuer: Issuer) -> str:
    pem = rsa_key("one").public_key()
    secret = pem.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def sign(data: bytes) -> bytes:
        made = hmac.HMAC(secret, hashes.SHA256())
        made.update(data)
        return made.finalize()

    return _signed_by_hand({"alg": "HS256", "kid": "one"}, issuer.claims(), sign)


def changed_claims(issuer: Issuer) -> str:
    header, _, signature = issuer.token().split(".")
    return f"{header}.{_b64(json.dumps(issuer.claims(email='bob@example.org')).encode())}.{signature}"


def key_in_the_header(issuer: Issuer) -> str:
    return issuer.token(rsa_key("evil"), header={"jwk": published(rsa_key("evil"), "one"), "jku": "http://127.0.0.1:1"})


#: Attempt -> the token, and a word of why it is refused.
FORGED: dict[str, tuple[Callable[[Issuer], str], str]] = {
    "no algorithm": (alg_none, "algorithm"),
    "no signature": (no_signature, "no identity token"),
    "an HMAC made with the public key": (hmac_with_the_public_key, "algorithm"),
    "claims that were changed": (changed_claims, "signature"),
    "another's key under a known id": (lambda i: i.token(rsa_key("evil")), "signature"),
    "a key that comes with the token": (key_in_the_header, "signature"),
    "a key id that there is not": (lambda i: i.token(key_id="three"), "does not publish"),
    "a key id that is a path": (lambda i: i.token(key_id="../keys"), "does not publish"),
    "an RSA key's id for an elliptic curve": (lambda i: i.token(ec_key("two"), "ES256", "one"), "signature"),
    "an algorithm that the settings leave out": (lambda i: i.token(algorithm="PS256"), "algorithm"),
    "another audience": (lambda i: i.token(aud="another"), "another service"),
    "no audience": (lambda i: i.token(aud=None), "lacks a claim"),
    "an audience among others, for another party": (lambda i: i.token(aud=[AUDIENCE, "x"], azp="x"), "another service"),
    "another issuer": (lambda i: i.token(iss="https://evil.example.org"), "another issuer"),
    "the issuer with a slash": (lambda i: i.token(iss=f"{i.url}/"), "another issuer"),
    "no issuer": (lambda i: i.token(iss=None), "lacks a claim"),
    "expired": (lambda i: i.token(exp=int(time.time()) - 60), "expired"),
    "never expiring": (lambda i: i.token(exp=None), "lacks a claim"),
    "not yet valid": (lambda i: i.token(nbf=int(time.time()) + 600), "not valid yet"),
    "issued tomorrow": (lambda i: i.token(iat=int(time.time()) + 86_400), "not valid yet"),
    "issued at no time": (lambda i: i.token(iat=None), "lacks a claim"),
    "an address that nobody verified": (lambda i: i.token(email_verified=False), "not verified"),
    "an address that claims to be verified": (lambda i: i.token(email_verified="yes"), "not verified"),
    "no address": (lambda i: i.token(email=None), "names no user"),
    "anybody": (lambda i: i.token(email="*"), "names no user"),
    "a list of addresses": (lambda i: i.token(email=["alice@example.org"]), "names no user"),
    "an address with a line break": (lambda i: i.token(email="alice@example.org\nx"), "names no user"),
    "a text that is no token": (lambda i: "hello", "no identity token"),
    "a token in a token's place": (lambda i: "e30.e30.e30", "algorithm"),
    "an endless token": (lambda i: "a" * MOST_CHARACTERS + ".b.c", "no identity token"),
}


@pytest.mark.parametrize("attempt", FORGED)
def test_a_forged_token_is_refused(attempt: str, issuer: Issuer) -> None:
    make, word = FORGED[attempt]
    token = make(issuer)
    with pytest.raises(TokenRefused, match=word) as caught:
        verifier(issuer).identity(token)
    assert all(part not in caught.value.message for part in token.split(".") if len(part) > 8)


@pytest.mark.parametrize("attempt", FORGED)
def test_the_service_answers_a_forged_token_with_401(attempt: str, lab: Lab) -> None:
    answer = lab.client(FORGED[attempt][0](lab.issuer)).post("/runs", json=lab.ask())
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert list(lab.store().folders("runs/")) == []
    assert [line["decision"] for line in lab.audit()] == ["refused"]


def test_clocks_may_differ_by_a_little(issuer: Issuer) -> None:
    token = issuer.token(exp=int(time.time()) - 5, iat=int(time.time()) + 5)
    assert verifier(issuer, leeway_seconds=30).identity(token).name == "alice@example.org"
    with pytest.raises(TokenRefused, match="not valid yet"):
        verifier(issuer, leeway_seconds=0).identity(token)


def test_a_short_key_is_refused_though_the_issuer_publishes_it(issuer: Issuer) -> None:
    issuer.documents["/keys"] = {"keys": [published(rsa_key("short", 1024), "short")]}
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = issuer.token(rsa_key("short", 1024), key_id="short")
    with pytest.raises(TokenRefused, match="signature"):
        verifier(issuer).identity(token)


@pytest.mark.parametrize(
    "more", [{"alg": "RS512"}, {"use": "enc"}, {"kty": "oct", "k": "c2VjcmV0"}], ids=["alg", "use", "kty"]
)
def test_a_key_that_is_for_something_else_is_refused(more: dict[str, str], issuer: Issuer) -> None:
    issuer.documents["/keys"] = {"keys": [published(rsa_key("one"), "one", **more)]}
    with pytest.raises(TokenRefused):
        verifier(issuer).identity(issuer.token())


def test_keys_are_asked_for_once(issuer: Issuer) -> None:
    checked = verifier(issuer)
    for _ in range(5):
        checked.identity(issuer.token())
    assert issuer.asked == ["/.well-known/openid-configuration", "/keys"]


def test_a_new_key_is_found_and_an_old_one_is_no_longer_believed(issuer: Issuer) -> None:
    clock = Clock()
    checked = verifier(issuer, clock)
    checked.identity(issuer.token())
    issuer.documents["/keys"] = {"keys": [published(rsa_key("new"), "new")]}
    clock.now += COOLDOWN_SECONDS + 1
    assert checked.identity(issuer.token(rsa_key("new"), key_id="new")).name == "alice@example.org"
    with pytest.raises(TokenRefused, match="does not publish"):
        checked.identity(issuer.token())


def test_a_key_that_was_taken_back_is_believed_for_an_hour_at_most(issuer: Issuer) -> None:
    clock = Clock()
    checked = verifier(issuer, clock)
    checked.identity(issuer.token())
    issuer.documents["/keys"] = {"keys": []}
    clock.now += FRESH_SECONDS + 1
    with pytest.raises(TokenRefused, match="does not publish"):
        checked.identity(issuer.token())


def test_made_up_key_ids_cost_the_issuer_nothing(issuer: Issuer) -> None:
    checked = verifier(issuer, Clock())
    checked.identity(issuer.token())
    for number in range(20):
        with pytest.raises(TokenRefused):
            checked.identity(issuer.token(key_id=f"made-up-{number}"))
    assert len(issuer.asked) == 2


def test_keys_serve_on_while_the_issuer_is_away_but_not_for_ever(issuer: Issuer) -> None:
    clock = Clock()
    checked = verifier(issuer, clock)
    checked.identity(issuer.token())
    issuer.documents.clear()
    clock.now += FRESH_SECONDS + 1
    assert checked.identity(issuer.token()).name == "alice@example.org"
    clock.now += STALE_SECONDS
    with pytest.raises(IssuerUnreachable):
        checked.identity(issuer.token())


def test_a_document_of_another_issuer_is_not_believed(issuer: Issuer) -> None:
    issuer.documents["/.well-known/openid-configuration"]["issuer"] = "https://evil.example.org"
    with pytest.raises(IssuerUnreachable):
        verifier(issuer).identity(issuer.token())


def test_keys_over_plain_http_from_elsewhere_are_not_fetched(issuer: Issuer) -> None:
    issuer.documents["/.well-known/openid-configuration"]["jwks_uri"] = "http://192.0.2.1/keys"
    with pytest.raises(IssuerUnreachable):
        verifier(issuer).identity(issuer.token())


def test_redirects_are_not_followed(issuer: Issuer) -> None:
    issuer.documents["/elsewhere"] = issuer.documents["/keys"]
    issuer.documents["/keys"] = f"{issuer.url}/elsewhere"
    with pytest.raises(IssuerUnreachable):
        verifier(issuer).identity(issuer.token())
    assert "/elsewhere" not in issuer.asked


def test_the_service_says_503_while_it_cannot_know_anybody(lab: Lab) -> None:
    lab.issuer.documents.clear()
    answer = lab.client().get("/runs")
    assert answer.status_code == 503
    assert "issuer" in answer.json()["error"]


@pytest.mark.parametrize("algorithms", [("HS256",), ("none",), ("RS256", "HS512")])
def test_settings_cannot_let_in_symmetric_algorithms(algorithms: tuple[str, ...]) -> None:
    with pytest.raises(InvalidConfig, match="asymmetric"):
        TokenRules(audience=AUDIENCE, algorithms=algorithms)


def test_settings_need_an_audience() -> None:
    with pytest.raises(InvalidConfig, match="audience"):
        TokenRules(audience="")


@pytest.mark.parametrize("url", ["http://issuer.example.org", "file:///etc", "https://user@issuer.example.org", "x"])
def test_an_issuer_is_asked_by_https_alone(url: str) -> None:
    with pytest.raises(InvalidConfig, match="https"):
        IssuerKeys(url)
