"""Takes secrets out of texts that are kept: a record is read by more people than a terminal.

A net and no promise: what looks like a password in a URL, a key of AWS, a token, or the value of something that is
called a secret becomes `***`. Secrets belong into none of what is recorded in the first place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

HIDDEN: Final = "***"

_NAMES: Final = r"[\w.-]*(?:secret|token|passw(?:or)?d|passphrase|credential|api_?key|access_?key|signature)[\w.-]*"
#: `scheme://user:password@` and `scheme://token@`; the name `git` of ssh is no secret.
_USERINFO: Final = re.compile(r"(?P<scheme>\b[a-zA-Z][\w+.-]*://)(?P<user>[^\s/@:'\"]*)(?P<password>:[^\s/@'\"]*)?@")
_PARAMETER: Final = re.compile(rf"(?P<name>[?&;]{_NAMES}=)[^\s&;'\"#]+", re.IGNORECASE)
_ASSIGNED: Final = re.compile(rf"(?P<name>\b{_NAMES}['\"]?\s*[=:]\s*['\"]?)(?P<value>[^\s'\",;&]+)", re.IGNORECASE)
#: AWS's ids of keys, and tokens of GitHub and GitLab, which say what they are:
#: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html
_TOKENS: Final = re.compile(
    r"\b(?:(?:AKIA|ASIA)[0-9A-Z]{16}|gh[opusr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{15,})\b"
)
#: The same in code, where `token=self.token` is none.
_LITERAL: Final = re.compile(rf"(?P<name>\b{_NAMES}['\"]?\s*[=:]\s*)(?P<quote>['\"])[^'\"\n]+(?P=quote)", re.IGNORECASE)
_SECRET_NAME: Final = re.compile(_NAMES, re.IGNORECASE)


def scrubbed(text: str) -> str:
    """The text without what looks like a secret."""
    found = _USERINFO.sub(_without_userinfo, text)
    found = _PARAMETER.sub(rf"\g<name>{HIDDEN}", found)
    return _TOKENS.sub(HIDDEN, _ASSIGNED.sub(rf"\g<name>{HIDDEN}", found))


def scrubbed_code(text: str) -> str:
    """Code, or a change of it, without what looks like a secret."""
    found = _LITERAL.sub(rf"\g<name>\g<quote>{HIDDEN}\g<quote>", _USERINFO.sub(_without_userinfo, text))
    return _TOKENS.sub(HIDDEN, found)


def scrubbed_value(value: Any, name: str = "") -> Any:
    """A JSON value with all of its texts scrubbed; what a secret's name stands for is hidden whole."""
    if isinstance(value, Mapping):
        return {key: scrubbed_value(item, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrubbed_value(item, name) for item in value]
    if not isinstance(value, str):
        return value
    return HIDDEN if value and _SECRET_NAME.fullmatch(name) else scrubbed(value)


def scrubbed_words(words: list[str] | tuple[str, ...]) -> list[str]:
    """The words of a command; one behind `--token` and its like is hidden whole."""
    found, secret = [], False
    for word in words:
        found.append(HIDDEN if secret and not word.startswith("-") else scrubbed(word))
        secret = word.startswith("-") and "=" not in word and bool(_SECRET_NAME.fullmatch(word.lstrip("-")))
    return found


def without_credentials(url: str) -> str:
    """The URL of a repository as it may be told: without password, token, query and fragment."""
    scheme = url.partition("://")[0] if "://" in url else ""
    if not scheme:
        return scrubbed(url)
    bare = url.split("?", 1)[0].split("#", 1)[0]
    place, _, path = bare.removeprefix(f"{scheme}://").partition("/")
    user, _, host = place.rpartition("@")
    keeps = scheme.startswith(("ssh", "git+ssh")) and user and ":" not in user
    return f"{scheme}://{f'{user}@' if keeps else ''}{host}{f'/{path}' if path else ''}"


def _without_userinfo(found: re.Match[str]) -> str:
    if not found["password"] and (found["user"] == "git" or found["scheme"].startswith(("ssh", "git+ssh"))):
        return found[0]
    return f"{found['scheme']}{HIDDEN}@"
