"""Verifies OIDC identity tokens against the issuer, the audience and the algorithms of the settings.

A token is an OIDC identity token (https://openid.net/specs/openid-connect-core-1_0.html#IDTokenValidation). Its header
chooses among the issuer's keys and decides nothing else: which algorithms are taken stands in the settings, all of them
asymmetric, and a key serves only the algorithm that it is for. So `alg: none` and an HMAC made with a public key are
refused before any signature is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt

from batch_pipeline.access.names import has_control
from batch_pipeline.access.request import UserIdentity
from batch_pipeline.access.service.keys import IssuerKeys
from batch_pipeline.wire.errors import InvalidConfig, InvalidUse

ASYMMETRIC: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
#: Longest token that is looked at; those of large directories have some 8 KiB.
MOST_CHARACTERS: Final = 16_384
#: https://nvlpubs.nist.gov/nistpubs/SpecialPublications/NIST.SP.800-131Ar2.pdf: shorter RSA keys sign nothing any more.
LEAST_RSA_BITS: Final = 2048
_FORM: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_REQUIRED: Final = ("exp", "iat", "iss", "aud", "sub")


class TokenRefused(InvalidUse):
    """The identity token is not valid. Get a new one and ask again."""


@dataclass(frozen=True, kw_only=True)
class TokenRules:
    """What a token must be to be believed."""

    audience: str
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    #: The claim that names the user: `email`, believed only when the issuer has verified it, or `sub`.
    claim: str = "email"
    #: By how much clocks may differ.
    leeway_seconds: float = 30

    def __post_init__(self) -> None:
        if not self.audience:
            raise InvalidConfig("No audience is set, so a token for any other service would do. Set server.audience.")
        if wrong := set(self.algorithms) - set(ASYMMETRIC):
            raise InvalidConfig(f"{', '.join(wrong)} is no asymmetric algorithm. Choose among {', '.join(ASYMMETRIC)}.")


class Verifier:
    """Turns tokens of one issuer into identities."""

    def __init__(self, keys: IssuerKeys, rules: TokenRules) -> None:
        self._keys = keys
        self._rules = rules

    def identity(self, token: str) -> UserIdentity:
        """Who the token is of. Raises TokenRefused, IssuerUnreachable; no message has anything of the token."""
        if len(token) > MOST_CHARACTERS or not _FORM.fullmatch(token):
            raise TokenRefused("What was sent is no identity token (a JWT). Get one from the issuer.")
        try:
            claims = self._claims(token)
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise TokenRefused(_sentence(error)) from error
        return UserIdentity(name=self._name(claims), source="oidc")

    def _claims(self, token: str) -> Mapping[str, Any]:
        header = jwt.get_unverified_header(token)
        algorithm = header.get("alg")
        if algorithm not in self._rules.algorithms:
            raise jwt.InvalidAlgorithmError
        key_id = header.get("kid")
        published = self._keys.key(key_id) if isinstance(key_id, str) else None
        if published is None:
            raise jwt.PyJWKError
        claims: dict[str, Any] = jwt.decode(
            token,
            key=_key(published, algorithm),
            algorithms=[algorithm],
            audience=self._rules.audience,
            issuer=self._keys.issuer,
            leeway=self._rules.leeway_seconds,
            options={"require": list(_REQUIRED)},
        )
        several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
        if several and claims.get("azp") != self._rules.audience:
            raise jwt.InvalidAudienceError
        return claims

    def _name(self, claims: Mapping[str, Any]) -> str:
        name = claims.get(self._rules.claim)
        if self._rules.claim == "email" and claims.get("email_verified") not in (True, "true"):
            raise TokenRefused("The issuer has not verified the e-mail address of the token. Verify it there.")
        if not isinstance(name, str) or not name or name == "*" or has_control(name) or re.search(r"\s", name):
            raise TokenRefused(f"The token names no user by its claim {self._rules.claim!r}. Ask for that scope.")
        return name


def _key(published: Mapping[str, Any], algorithm: str) -> Any:
    """The key, if it is for this algorithm. Raises jwt.PyJWTError."""
    if published.get("kty") not in ("RSA", "EC", "OKP") or published.get("alg", algorithm) != algorithm:
        raise jwt.InvalidKeyError
    key = jwt.PyJWK(dict(published), algorithm).key
    if published["kty"] == "RSA" and key.key_size < LEAST_RSA_BITS:
        raise jwt.InvalidKeyError
    return key


def _sentence(error: Exception) -> str:
    for kind, sentence in _SENTENCES.items():
        if isinstance(error, kind):
            return sentence
    return "The identity token is not valid: its signature or form is wrong. Get a new one from the issuer."


_SENTENCES: Final[Mapping[type[Exception], str]] = {
    jwt.ExpiredSignatureError: "The identity token has expired. Get a new one and ask again.",
    jwt.ImmatureSignatureError: "The identity token is not valid yet. Check the clocks of both machines.",
    jwt.InvalidAudienceError: "The identity token is for another service. Get one for this service's audience.",
    jwt.InvalidIssuerError: "The identity token is of another issuer. Get one from this service's issuer.",
    jwt.InvalidAlgorithmError: "The identity token is signed by an algorithm that is not taken here. Get another one.",
    jwt.PyJWKError: "The identity token is signed with a key that its issuer does not publish. Get a new one.",
    jwt.MissingRequiredClaimError: "The identity token lacks a claim that every one has. Get one of kind `id_token`.",
}
