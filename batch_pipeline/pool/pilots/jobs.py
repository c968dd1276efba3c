"""Pilots as array jobs of AWS Batch: fetch-and-run of a small script that is `batch-pipeline pool work`.

What was launched is kept in the store, so that an autopilot on another machine counts those that are queued. The image
needs this package and its command line beside the tools of the tasks; docs/pool.md has its Dockerfile.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from batch_pipeline.backends.base import Backend, JobRequest
from batch_pipeline.config import Settings
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.store import Store

#: What a pilot's job fetches and runs. The variable is set where the job runs on the machine that sent it.
SCRIPT: Final = b'#!/bin/sh\nexec "${BATCH_PIPELINE_PYTHON:-python3}" -m batch_pipeline pool work "$@"\n'


@dataclass(frozen=True, kw_only=True)
class LaunchedPilots:
    """Pilots that were launched at once, as the store keeps them."""

    native_id: str
    resource_class: str
    pool: str
    count: int
    format: int = 1


class BatchLauncher:
    """See `pool.pilots.autopilot.Launcher`. Pilots of the empty class take tasks of any."""

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        store: Store,
        pool_url: str,
        arguments: Sequence[str],
        definition: Mapping[str, Any],
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._store = store
        self._pool_url = pool_url
        self._arguments = tuple(arguments)
        self._definition = definition

    def alive(self, resource_class: str) -> int:
        """See `Launcher.alive`."""
        return sum(self._alive(self._launched(), resource_class))

    def _alive(self, launched: Mapping[str, LaunchedPilots], resource_class: str) -> Iterator[int]:
        summaries = self._backend.summaries([one.native_id for one in launched.values()]) if launched else {}
        for key, one in launched.items():
            summary = summaries[one.native_id]
            if summary.state.final:
                self._store.delete([key])
            elif one.resource_class == resource_class:
                yield sum(number for state, number in summary.counts.items() if not state.final)

    def _launched(self) -> dict[str, LaunchedPilots]:
        keys = [entry.key for entry in self._store.list(layout.pilot())]
        launched_by_key = {key: LaunchedPilots(**self._store.get_json(key)) for key in keys}
        return {key: one for key, one in launched_by_key.items() if one.pool == self._pool_url}

    def launch(self, resource_class: str, count: int) -> str:
        """See `Launcher.launch`."""
        from ulid import ULID

        name = f"pilots-{ULID()}"
        self._store.put(layout.pilot_script(), SCRIPT)
        of_class = ("--class", resource_class) if resource_class else ()
        place = ("--pool", self._pool_url, "--store", self._store.url)
        settings = self._settings.backend
        native_id = self._backend.submit(
            JobRequest(
                name=name,
                queue=settings.queue,
                size=count,
                definition=self._definition,
                environment=self._environment(),
                command=("pilot", *place, *of_class, *self._arguments),
                tags={**self._settings.tags, "batch-pipeline": "pilots"},
                share_identifier=settings.share_identifier,
                priority=settings.priority if settings.priority >= 0 else None,
            )
        )
        launched = LaunchedPilots(native_id=native_id, resource_class=resource_class, pool=self._pool_url, count=count)
        self._store.put_json(layout.pilot(name), asdict(launched))
        return f"queued {count} {'pilot' if count == 1 else 'pilots'} as job {native_id}"

    def _environment(self) -> dict[str, str]:
        variables = {
            **self._store.variables,
            Variable.FILE_TYPE: "script",
            Variable.FILE_URL: self._store.url_of(layout.pilot_script()),
            Variable.FILE_SHA256: sha256_of_bytes(SCRIPT),
        }
        if self._settings.backend.name == "embedded" and not self._settings.embedded.container:
            variables["BATCH_PIPELINE_PYTHON"] = sys.executable
        return variables

    def close(self) -> None:
        """Lets go of the backend; pilots go on."""
        self._backend.close()
