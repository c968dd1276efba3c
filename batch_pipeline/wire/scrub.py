"""Takes secrets out of texts that are kept: a record is read by more people than a terminal.

A net and no promise: what looks like a password in a URL, a key of AWS, a token, or the value of something that is
called a secret becomes `***`. Secrets belong into none of what is recorded in the first place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

HIDDEN: Final = "***"

_WORDS: Final = "secret|token|passwd|password|passphrase|credential|api_?key|access_?key|signature"
#: Each of the words has one of these in it.
_PARTS: Final = ("secret", "token", "pass", "credential", "key", "signature")
#: Bounded, so that a long line without a blank takes no longer than another.
_NAMES: Final = rf"[\w.-]{{0,64}}(?:{_WORDS})[\w.-]{{0,64}}"
#: Words that hold a secret's by chance: of language models, of cell biology, of genes.
_ORDINARY: Final = (
    "tokeni[sz]|secret(?:ion|ory|ome|ed|ing)|(?:gene|mutational|expression|immune)[_.-]?signature"
    "|signature[_.-]?(?:gene|score|set|matrix)"
)
#: Names and values that tell of secrets and are none: where one lies, how many there are.
_ABOUT: Final = r".*(?:file|path)=[/.~].*|.*arn=arn:.*|.*(?:count|counts|length|limit|tokens|tokens[_-]per[_-]\w+)=\d+"
#: `scheme://user:password@` and `scheme://token@`; the name `git` of ssh is no secret.
_USERINFO: Final = (
    r"(?P<scheme>\b[a-zA-Z][\w+.-]{0,30}://)(?P<user>[^\s/@:'\"]{0,500})(?P<password>:[^\s/@'\"]{0,500})?@"
)
#: AWS's ids of keys, and tokens of GitHub and GitLab, which say what they are:
#: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html
_TOKENS: Final = r"\b(?:(?:AKIA|ASIA)[0-9A-Z]{16}|gh[opusr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{15,})\b"

#: A word that sets the URL of a webhook, whose path is a secret.
_WEBHOOK: Final = r"(--set=)?(--notify|notify\.url)="


@cache
def _pattern(text: str) -> re.Pattern[str]:
    """Compiled when it is first needed: a command with nothing to record never needs it."""
    return re.compile(text, re.IGNORECASE if _WORDS in text else 0)


def scrubbed(text: str) -> str:
    """The text without what looks like a secret."""
    text = _pattern(_USERINFO).sub(_without_userinfo, text) if "://" in text else text
    # Log lines pass here, and the two patterns take fifty times as long as this look.
    folded = text.casefold()
    if any(part in folded for part in _PARTS):
        text = _pattern(rf"(?P<name>[?&;]{_NAMES}=)(?P<value>[^\s&;'\"#]+)").sub(_without_value, text)
        assigned = rf"(?P<name>\b{_NAMES}['\"]?\s*[=:]\s*['\"]?)(?P<value>[^\s'\",;&]+)"
        text = _pattern(assigned).sub(_without_value, text)
    return _pattern(_TOKENS).sub(HIDDEN, text)


def scrubbed_code(text: str) -> str:
    """Code, or a change of it, without what looks like a secret; `token = self.token` is none."""
    return "".join(map(_scrubbed_line, text.splitlines(keepends=True)))


def _scrubbed_line(line: str) -> str:
    if "://" in line:
        line = _pattern(_USERINFO).sub(_without_userinfo, line)
    if _pattern(_WORDS).search(line):
        literal = rf"(?P<name>\b{_NAMES}['\"]?\s*[=:]\s*(?P<quote>['\"]))(?P<value>[^'\"\n]+)(?=(?P=quote))"
        line = _pattern(literal).sub(_without_value, line)
    return _pattern(_TOKENS).sub(HIDDEN, line)


def scrubbed_value(value: Any, name: str = "") -> Any:
    """A JSON value with all of its texts scrubbed; what a secret's name stands for is hidden whole."""
    if isinstance(value, Mapping):
        return {key: scrubbed_value(item, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrubbed_value(item, name) for item in value]
    if not isinstance(value, str):
        return value
    return HIDDEN if value and _is_secret(name, value) else scrubbed(value)


def scrubbed_words(words: list[str] | tuple[str, ...]) -> list[str]:
    """The words of a command; one behind `--token` and its like is hidden whole, and of a webhook all but its host."""
    kept, option = [], ""
    for word in words:
        if option == "notify" or _pattern(_WEBHOOK).match(word):
            word = webhook_place(word)
        kept.append(HIDDEN if option and not word.startswith("-") and _is_secret(option, word) else scrubbed(word))
        option = word.lstrip("-") if word.startswith("-") and "=" not in word else ""
    return kept


def webhook_place(text: str) -> str:
    """The text with no more of its URL than scheme and host: of a webhook the path is a secret."""
    return re.sub(r"(https?://[^/?#]*)[/?#].*", rf"\1/{HIDDEN}", text)


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


def _is_secret(name: str, value: str) -> bool:
    """Whether the value of something of that name is one."""
    bare = re.sub(_ORDINARY, "", name, flags=re.IGNORECASE)
    about = re.fullmatch(_ABOUT, f"{name}={value}", re.IGNORECASE | re.DOTALL)
    return _pattern(_NAMES).fullmatch(bare) is not None and about is None


def _without_value(match: re.Match[str]) -> str:
    name = match["name"].strip(" \t\r\n?&;=:'\"")
    return f"{match['name']}{HIDDEN}" if _is_secret(name, match["value"]) else match[0]


def _without_userinfo(match: re.Match[str]) -> str:
    if not match["password"] and (match["user"] == "git" or match["scheme"].startswith(("ssh", "git+ssh"))):
        return match[0]
    return f"{match['scheme']}{HIDDEN}@"
