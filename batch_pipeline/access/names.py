"""Rules for names and paths in a request: outputs, variables, configuration. Pure, and the same at all levels.

Each function yields its problems and goes on, so that the user learns of all of them at once.

(Longer than most modules: a third of it is lists of names, each beside the rule that reads it.)
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from batch_pipeline.wire.errors import Problem

#: A variable's name as POSIX has it.
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
#: Part of an output's path: what a store's prefix admits (`settings.StoreSettings`).
_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=@-]*")
#: Control characters, line separators, and marks that turn the direction of what stands on a screen.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

#: Folders of a store that are its own (`wire.layout`): records, logs and receipts are nobody's output.
STORES_OWN: Final = frozenset(
    {
        "results",
        "cohort",
        "references",
        "receipts",
        "retired",
        "pipelines",
        "driving",
        "removing",
        "logs",
        "code",
        "runs",
        "release",
        "subsets",
        "live",
        "driver",
        "pool",
    }
)

MOST_PATH: Final = 512
MOST_TEXT: Final = 4096
MOST_ITEMS: Final = 1000
MOST_BYTES: Final = 256 * 1024
MOST_DEPTH: Final = 20

#: Variables that decide where a run is, who it is, or which code its programs load, by beginning. In capitals.
RESERVED_BEGINNINGS: Final = (
    "BATCH_",
    "AWS_",
    "ECS_",
    "LD_",
    "DYLD_",
    "PYTHON",
    "GIT_",
    "SSH_",
    "BASH_FUNC_",
    "PERL",
    "RUBY",
    "NODE_",
    "R_",
    "JAVA_",
    "_JAVA_",
    "JDK_",
    "SSL_",
    "CURL_",
    "XDG_",
    "INPUT_",
    "OUTPUT_",
    "MALLOC_",
    "LUA_",
    "CONDA_",
    "PIP_",
    "UV_",
    "LUIGI_",
    "OPENSSL_",
    "GEM_",
    "BUNDLE_",
    "NPM_",
    "JULIA_",
    "MAVEN_",
    "GRADLE_",
    "MPL",
)
#: The same, whole. In capitals; names are compared without regard to case, as proxies' are.
RESERVED_NAMES: Final = frozenset(
    {
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "PWD",
        "OLDPWD",
        "IFS",
        "ENV",
        "BASH_ENV",
        "BASHOPTS",
        "SHELLOPTS",
        "PS4",
        "PROMPT_COMMAND",
        "CDPATH",
        "TMPDIR",
        "TEMP",
        "TMP",
        "HOSTALIASES",
        "LOCPATH",
        "NLSPATH",
        "GCONV_PATH",
        "GLIBC_TUNABLES",
        "RES_OPTIONS",
        "LOCALDOMAIN",
        "VIRTUAL_ENV",
        "CLASSPATH",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "FTP_PROXY",
        "NO_PROXY",
        "REQUESTS_CA_BUNDLE",
        "OMP_TOOL_LIBRARIES",
        "HDF5_PLUGIN_PATH",
        "HTS_PATH",
        "BCFTOOLS_PLUGINS",
        "REF_PATH",
        "REF_CACHE",
        "MAKEFLAGS",
        "GNUMAKEFLAGS",
        "MAKEFILES",
        "LESSOPEN",
        "LESSCLOSE",
        "EDITOR",
        "PAGER",
        "BUCKET_NAME",
        "SAMPLE_NAME",
        "LIST_OF_SAMPLES",
        "REFERENCE",
        "SAMPLE",
        "CPUS",
        "MEMORY_MB",
    }
)
#: Names whose values are most likely secrets; their values would stand in the record for all to read.
_SECRET: Final = re.compile(
    r"TOKEN|PASSWORD|PASSWD|PASSPHRASE|SECRET|CREDENTIAL|PRIVATE_?KEY|API_?KEY|ACCESS_?KEY|AUTHORIZATION"
)

#: What says by itself that it is a secret: keys of AWS, tokens of GitHub and GitLab, passwords in URLs, private keys.
_TOKEN: Final = re.compile(
    r"\b(AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[opusr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{15,}"
    r"|://[^/\s:@]*:[^/\s@]+@|-----BEGIN [A-Z ]*PRIVATE KEY"
)

#: Tables of a driver's configuration that are written for it and by nobody else, and those of settings that decide
#: where a run is.
PROTECTED_TABLES: Final = frozenset(
    {"workflow", "storage", "run", "store", "backend", "embedded", "aws", "deploy", "access", "server", "tags", "pool"}
)


def has_control(text: str) -> bool:
    """Whether a text has characters that are not seen, or that disguise what is."""
    return _CONTROL.search(text) is not None


def text_problems(subject: str, text: str, *, empty: bool = False, most: int = MOST_TEXT) -> Iterator[Problem]:
    """Of a text in one line."""
    if not text.strip() and not empty:
        yield Problem(
            subject=subject, rule="It is empty, and every run's record has one.", remedy="Give it some words."
        )
    yield from _secrets(subject, [text])
    if has_control(text):
        yield Problem(subject=subject, rule="It has control characters.", remedy="Write it in one line of plain text.")
    if len(text) > most:
        yield Problem(subject=subject, rule=f"It is longer than {most} characters.", remedy="Shorten it.")


def output_problems(output_dir: str) -> Iterator[Problem]:
    """Of an output prefix: names with slashes between, inside the level's own place."""
    subject = f"--output-dir {output_dir!r}"
    remedy = "Give a path inside the dataset, like cohort-7/v2."
    if not output_dir.strip("/ "):
        yield Problem(subject=subject, rule="An output prefix is not empty.", remedy=remedy)
    elif "://" in output_dir:
        yield Problem(subject=subject, rule="An output prefix is no URL; the policy says where it is.", remedy=remedy)
    elif output_dir.startswith(("/", "~")):
        yield Problem(subject=subject, rule="An output prefix is not absolute.", remedy=remedy)
    elif any(not _PART.fullmatch(part) for part in output_dir.removesuffix("/").split("/")):
        rule = "An output prefix is names of letters, digits and . _ + = @ - with single slashes between, none of them"
        yield Problem(subject=subject, rule=f"{rule} beginning with a dot.", remedy=remedy)
    elif output_dir.split("/")[0] in STORES_OWN:
        yield Problem(
            subject=subject, rule="The store keeps records there.", remedy="Begin it with another name.", status=403
        )
    if len(output_dir) > MOST_PATH:
        yield Problem(
            subject=subject, rule=f"An output prefix has at most {MOST_PATH} characters.", remedy="Shorten it."
        )


def folder_problems(cwd: str) -> Iterator[Problem]:
    """Of the folder within the repository where the script starts; empty or a dot is its root."""
    inside = not cwd.startswith(("/", "~", "-")) and ".." not in cwd.split("/") and "\\" not in cwd
    if not inside or has_control(cwd) or len(cwd) > MOST_PATH or ".git" in cwd.casefold().split("/"):
        yield Problem(
            subject=f"--cwd {cwd!r}",
            rule="The working directory is a folder inside the repository.",
            remedy="Give it relative to the repository's root, without `..`.",
        )


def folder_of(cwd: str) -> str:
    """The folder as its path from the repository's root; empty for the root."""
    path = posixpath.normpath(cwd.strip("/") or ".")
    return "" if path == "." else path


def entry_of(cwd: str, program: str) -> str:
    """The script as a path from the repository's root; empty when it is none inside of it."""
    if not program or program.startswith(("/", "-", "~")) or has_control(program) or "\\" in program:
        return ""
    path = posixpath.normpath(posixpath.join(cwd or ".", program))
    if path in (".", "..") or path.startswith("../") or ".." in program.split("/"):
        return ""
    return "" if ".git" in path.casefold().split("/") else path


def script_problems(script: Sequence[str]) -> Iterator[Problem]:
    """Of the script and its arguments."""
    if not script or not script[0].strip():
        yield Problem(subject="script", rule="A run needs a script.", remedy="Name one behind the options.")
    if any(has_control(item) for item in script):
        yield Problem(
            subject="script",
            rule="An argument has control characters.",
            remedy="Put what takes several lines into a file of the repository.",
        )
    yield from _secrets("script", script)
    if len(script) > MOST_ITEMS or sum(len(item.encode(errors="replace")) for item in script) > MOST_BYTES:
        yield Problem(
            subject="script",
            rule=f"At most {MOST_ITEMS} arguments of {MOST_BYTES // 1024} KiB together are taken.",
            remedy="Give a list as a file.",
        )


def variable_problems(environment: Mapping[str, str]) -> Iterator[Problem]:
    """Of variables for the script: none that decides where a run is, who it is or what its programs load."""
    for name, value in environment.items():
        subject = f"--env {name!r}" if has_control(name) else f"--env {name}"
        large = name.upper()
        if not _VARIABLE.fullmatch(name):
            yield Problem(
                subject=subject, rule="A variable's name is letters, digits and _, no digit first.", remedy="Rename it."
            )
        elif large in RESERVED_NAMES or large.startswith(RESERVED_BEGINNINGS):
            yield Problem(
                subject=subject,
                rule="The name is reserved: it decides where a run is, who it is or which code its programs load.",
                remedy="Choose another name, or set it in the reviewed script.",
                status=403,
            )
        elif _SECRET.search(large):
            yield Problem(
                subject=subject,
                rule="Its value looks like a secret, and variables stand in the run's record for all to read.",
                remedy="Keep it in Secrets Manager, and let the script read it with the level's role.",
            )
        yield from _secrets(subject, [value])
        if has_control(value) or len(value) > MOST_TEXT:
            yield Problem(
                subject=subject,
                rule=f"A variable's value is at most {MOST_TEXT} characters without control characters.",
                remedy="Give it in the configuration.",
            )
    if len(environment) > MOST_ITEMS:
        yield Problem(subject="--env", rule=f"At most {MOST_ITEMS} variables are taken.", remedy="Give fewer.")


def config_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Of the configuration that comes with a request: none of the tables that are written for it."""
    for key in config:
        if re.split(r"[.\s]", key.strip().casefold())[0] in PROTECTED_TABLES:
            yield Problem(
                subject=f"--config [{key}]" if not has_control(key) else f"--config {key!r}",
                rule="The table is protected: it says what the run is and where, and is written after the checks.",
                remedy="Take it out of the file.",
                status=403,
            )
    if not _is_toml(config):
        yield Problem(
            subject="--config",
            rule=f"Values are what TOML has, {MOST_DEPTH} tables deep at most, {MOST_BYTES // 1024} KiB together.",
            remedy="Give more as a file of the repository.",
        )
        return
    yield from _secrets("--config", _texts(config))
    if any(has_control(key) or not key for key in _keys(config)):
        yield Problem(
            subject="--config", rule="A key is empty or has control characters.", remedy="Take it out of the file."
        )


def _secrets(subject: str, texts: Iterable[str]) -> Iterator[Problem]:
    """Of texts that are recorded for all to read; what was found is not repeated."""
    if any(_TOKEN.search(text) for text in texts):
        yield Problem(
            subject=subject,
            rule="It holds a key, a token or a password, and it stands in the run's record for all to read.",
            remedy="Keep it in Secrets Manager, and let the script read it with the level's role.",
        )


def _is_toml(value: Any) -> bool:
    """Whether a value can be written as TOML: of its kinds, in characters that there are, and of a sane size."""
    left = MOST_BYTES
    open_values = [(value, 0)]
    while open_values:
        one, depth = open_values.pop()
        if isinstance(one, str):
            left -= len(one.encode(errors="replace")) + 1
            if any("\ud800" <= character <= "\udfff" for character in one):
                return False
        elif isinstance(one, Mapping):
            open_values += [(item, depth + 1) for pair in one.items() for item in pair]
        elif isinstance(one, list | tuple):
            open_values += [(item, depth + 1) for item in one]
        elif isinstance(one, int | float):
            left -= len(str(one)) if isinstance(one, float) else one.bit_length() // 3 + 1
        else:
            return False
        if left < 0 or depth > MOST_DEPTH or len(open_values) > MOST_BYTES:
            return False
    return True


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for item in value.values() for text in _texts(item))
    elif isinstance(value, list | tuple):
        yield from (text for item in value for text in _texts(item))


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _keys(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _keys(item)
