"""Whose tools a job of this machine finds: the interpreter, search paths and umask of whoever gave the command.

The embedded Batch is one server a user, and serves commands from any of that user's environments. So each job brings
along the one from which it was submitted, in a header of its SubmitJob; the server keeps it with the job, whichever
command started the server. A job on AWS has its image instead, and gets nothing of this.

What goes along is a list of names that tell where things are and in which language they speak: what a shell, venv,
conda, pixi, modules, EasyBuild, Spack, Nix, Homebrew, Java, Perl, R and others set. Any other variable may be a secret.
Options of tools (`JAVA_TOOL_OPTIONS`), proxies and settings of this package (`BATCH_PIPELINE__…`) may hold one and are
left out; so is an entry that looks like one. A step that needs more names it in its job definition's `environment`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from batch_pipeline.wire.errors import ContractBroken

#: The header of SubmitJob, for the embedded Batch alone.
HEADER: Final = "X-Batch-Pipeline-Toolchain"
#: What podman and docker read of the environment.
ENGINE_VARIABLES: Final = (
    "CONTAINERS_CONF",
    "CONTAINERS_STORAGE_CONF",
    "CONTAINERS_REGISTRIES_CONF",
    "CONTAINER_HOST",
    "DOCKER_CONFIG",
    "DOCKER_CONTEXT",
    "DOCKER_HOST",
    "REGISTRY_AUTH_FILE",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "DBUS_SESSION_BUS_ADDRESS",
)
#: Files and folders, or lists of them with colons between: a relative one is meant from the command's folder.
PLACES: Final = (
    *("PATH", "HOME", "TMPDIR", "TMP", "TEMP", "XDG_CACHE_HOME", "LD_LIBRARY_PATH", "LOCALE_ARCHIVE", "LOCPATH"),
    *("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYENV_ROOT"),
    *("CONDA_PREFIX", "CONDA_EXE", "CONDA_PYTHON_EXE", "CONDA_PKGS_DIRS", "CONDA_ENVS_PATH"),
    *("MAMBA_ROOT_PREFIX", "MAMBA_EXE", "PIXI_HOME", "PIXI_EXE", "PIXI_PROJECT_ROOT", "PIXI_PROJECT_MANIFEST"),
    *("MODULEPATH", "MODULESHOME", "LMOD_DIR", "LMOD_CMD", "LMOD_PKG", "SPACK_ROOT", "SPACK_ENV", "SPACK_ENV_VIEW"),
    *("NIX_PROFILES", "GUIX_PROFILE", "GUIX_LOCPATH", "GUIX_ENVIRONMENT", "HOMEBREW_PREFIX"),
    *("JAVA_HOME", "JRE_HOME", "JAVA_LD_LIBRARY_PATH", "CLASSPATH", "GATK_LOCAL_JAR"),
    *("PERL5LIB", "PERL_LOCAL_LIB_ROOT", "R_HOME", "R_LIBS", "R_LIBS_SITE", "R_LIBS_USER"),
    *("GEM_HOME", "GEM_PATH", "RUBYLIB", "NODE_PATH", "CUDA_HOME", "CUDA_PATH"),
    *("APPTAINER_CACHEDIR", "APPTAINER_TMPDIR", "SINGULARITY_CACHEDIR", "SINGULARITY_TMPDIR"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "NIX_SSL_CERT_FILE"),
    *("BLASTDB", "KRAKEN2_DB_PATH", "AUGUSTUS_CONFIG_PATH", "BUSCO_CONFIG_FILE"),
)
#: Names, numbers, and lists with rules of their own.
WORDS: Final = (
    *("USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "SHELL", "PYTHONNOUSERSITE", "PYTHONUTF8", "PYTHONIOENCODING"),
    *("PYTHONDONTWRITEBYTECODE", "PYENV_VERSION", "CONDA_DEFAULT_ENV", "CONDA_SHLVL", "PIXI_ENVIRONMENT_NAME"),
    *("PIXI_IN_SHELL", "LOADEDMODULES", "_LMFILES_", "SPACK_LOADED_HASHES", "JULIA_DEPOT_PATH", "JULIA_LOAD_PATH"),
    *("JULIA_PROJECT", "LUA_PATH", "LUA_CPATH", "CUDA_VISIBLE_DEVICES", "REF_PATH", "REF_CACHE"),
    *("HTS_PATH", "BCFTOOLS_PLUGINS"),
)
#: Locale; where EasyBuild's modules have put each tool.
PREFIXES: Final = ("LC_", "EBROOT")


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """With what a job of this machine runs."""

    #: The interpreter; empty: the server's own.
    python: str
    #: The folder where that interpreter has this package.
    package: str
    umask: int
    #: Names of `PLACES`, `WORDS`, `PREFIXES` and `ENGINE_VARIABLES`, as far as they are set.
    variables: Mapping[str, str]

    @classmethod
    def of_this_process(cls) -> Toolchain:
        """That of the command which is running."""
        return cls(
            python=sys.executable or "",
            package=str(Path(__file__).resolve().parents[2]),
            umask=process_umask(),
            variables=_chosen(os.environ),
        )

    @property
    def path(self) -> str:
        """Where tools are looked for."""
        return self.variables.get("PATH", os.defpath)

    def environment(self) -> dict[str, str]:
        """The variables with which the interpreter finds this package."""
        path = os.pathsep.join(filter(None, (self.package, self.variables.get("PYTHONPATH"))))
        return {**self.variables, "PYTHONPATH": path}

    def to_json(self) -> dict[str, Any]:
        """For the header and the run record; the umask as people write it."""
        return {**asdict(self), "umask": f"{self.umask:04o}"}

    def to_header(self) -> str:
        """As one line of ASCII."""
        return json.dumps(self.to_json(), separators=(",", ":"))


@lru_cache(maxsize=64)
def toolchain_of(header: str) -> Toolchain:
    """Reads `to_header`, names that are on the list; equal ones are one object. Raises ContractBroken."""
    try:
        value = json.loads(header)
        return Toolchain(
            python=str(value["python"]),
            package=str(value["package"]),
            umask=int(value["umask"], 8) & 0o777,
            variables={name: str(text) for name, text in value["variables"].items() if _is_listed(name)},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ContractBroken(f"{HEADER} is not as agreed ({type(error).__name__}: {error}). Submit again.") from error


def process_umask() -> int:
    """The umask of this process; it is not changed for a moment, as `os.umask` would for all threads."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
            return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    except (OSError, StopIteration):
        umask = os.umask(0o077)
        os.umask(umask)
        return umask


def _is_listed(name: str) -> bool:
    return name in _NAMES or name.startswith(PREFIXES)


def _chosen(environ: Mapping[str, str]) -> dict[str, str]:
    variables = {name: _public(name, environ[name]) for name in sorted(environ) if _is_listed(name)}
    return {name: text for name, text in variables.items() if text}


def _public(name: str, text: str) -> str:
    """A variable's value without what looks like a secret, and with places as they are seen from anywhere."""
    from batch_pipeline.wire.scrub import scrubbed

    if "://" in text or name not in PLACES:
        return text if scrubbed(text) == text else ""
    entries = [entry for entry in text.split(os.pathsep) if scrubbed(entry) == entry]
    # What begins with another sign is a pattern of the tool's own, as R's `~/R/%v`.
    relative = [entry == "" or entry[0] not in "/~$%" for entry in entries]
    return os.pathsep.join(
        os.path.abspath(entry) if is_relative else entry for entry, is_relative in zip(entries, relative, strict=True)
    )


_NAMES: Final = frozenset((*PLACES, *WORDS, *ENGINE_VARIABLES))
