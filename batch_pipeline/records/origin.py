"""What a run's record tells beside the plan: who, which code, which packages, which settings, on whose behalf.

git is asked in a thread, from the moment when it is clear that something will be submitted, so that a run begins no
later for it; a command with nothing to do does not ask. Texts are scrubbed (`wire.scrub`).
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import batch_pipeline
from batch_pipeline.backends.account import Inspectable, NotVisible
from batch_pipeline.config import SECTIONS, Settings
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.digest import canonical_json, sha256_of_bytes
from batch_pipeline.wire.errors import BackendFailed
from batch_pipeline.wire.scrub import scrubbed_value, webhook_place

if TYPE_CHECKING:
    from batch_pipeline.records.code_state import CodeState

#: Packages whose versions are recorded, by the names of their distributions.
PACKAGES: Final = ("luigi", "sciluigi", "boto3", "botocore", "obstore", "click", "tornado")
#: Seconds that a run waits for git at most.
LONGEST: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What was found out."""

    #: None: git was not asked.
    code: CodeState | None = None
    dirty: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)
    #: Who runs it, as AWS says; empty: nobody but this machine knows.
    identity: str = ""
    #: Name of the record's field -> what the environment says: `parent_run` and the like.
    behalf: Mapping[str, str] = field(default_factory=dict)


class ProvenanceReader:
    """Asks git from now on, in the background; `read` waits for it.

    The thread imports nothing: a Ctrl-C that meets an import of the main thread may leave Python's import lock taken.
    """

    def __init__(self, folder: Path) -> None:
        # What starts processes is imported no sooner than something is about to be submitted.
        from batch_pipeline.records.code_state import read_code_state

        self._read_code_state = read_code_state
        self._folder = folder
        self._code: CodeState | None = None
        self._thread = threading.Thread(target=self._look, name="provenance", daemon=True)
        self._thread.start()

    def read(self, backend: object, code: Iterable[Path]) -> Provenance:
        """All of it; `code` are the files of the bundle."""
        identity = identity_of(backend)
        self._thread.join(LONGEST)
        return Provenance(
            code=self._code,
            dirty=self._code is not None and self._code.is_dirty(code),
            versions=package_versions(),
            identity=identity,
            behalf=on_behalf_of(os.environ),
        )

    def _look(self) -> None:
        self._code = self._read_code_state(self._folder)


def identity_of(backend: object) -> str:
    """The ARN by which AWS knows who submits; empty where there is no AWS, or it does not tell."""
    if not isinstance(backend, Inspectable) or not backend.account.complete:
        return ""
    try:
        return backend.account.identity()[1]
    except (NotVisible, BackendFailed):
        return ""


def on_behalf_of(environment: Mapping[str, str]) -> dict[str, str]:
    """In which run, for whom, for which dataset, at which level and below which prefix, if a driver job says so."""
    variables = {
        "parent_run": Variable.PARENT_RUN,
        "user": Variable.USER,
        "dataset": Variable.DATASET,
        "access_level": Variable.ACCESS_LEVEL,
        "output_prefix": Variable.OUTPUT_PREFIX,
    }
    return {name: environment[variable] for name, variable in variables.items() if environment.get(variable)}


def package_versions() -> dict[str, str]:
    """Versions of the packages that are there; none is imported. Luigi has loaded what this needs: milliseconds."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"batch_pipeline": batch_pipeline.__version__, "python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def config_json(settings: Settings) -> dict[str, Any]:
    """The settings as merged from all places, and where each that is no default was written; no secrets."""
    values = {section: asdict(getattr(settings, section)) for section in SECTIONS}
    values |= {"tags": dict(settings.tags), "params": dict(settings.params)}
    if settings.steps:
        values["steps"] = dict(settings.steps)
    values["notify"]["url"] = webhook_place(settings.notify.url)
    scrubbed: dict[str, Any] = scrubbed_value(values)
    return {
        "format": 1,
        "sha256": sha256_of_bytes(canonical_json(scrubbed)),
        "settings": scrubbed,
        "origins": settings.origins,
        **({"preset": settings.preset} if settings.preset else {}),
    }
