"""The pilots of a run: as many as are wanted and not more than tasks, with room for its largest cell.

They are launched when somebody looks, and again when they end while tasks are left. Whoever follows a run may not have
sent it: what its cells need is told by their manifests then.
"""

from __future__ import annotations

from typing import Final

from batch_pipeline.backends.base import JobRequest
from batch_pipeline.backends.definitions import resources
from batch_pipeline.config import Settings
from batch_pipeline.pool.base import Filter, PoolReader, PoolStore
from batch_pipeline.pool.files.writing import tasks_of
from batch_pipeline.pool.pilots.autopilot import Launcher
from batch_pipeline.pool.pilots.jobs import BatchLauncher
from batch_pipeline.pool.settings import needs_of_cell, run_launcher
from batch_pipeline.pool.task import TaskState
from batch_pipeline.records.place import pool_url
from batch_pipeline.wire.errors import BackendFailed

#: Pilots that are launched for each that is wanted, while nothing gets done, until the run is given up.
MOST_LAUNCHES: Final = 3
#: vCPUs and MiB that a pilot has at the least.
LEAST: Final = (1, 4)

_MOVING: Final = frozenset(state for state in TaskState if not state.final)


class Pilots:
    """Those of one pool. `launcher` None: as the settings say, made at first use."""

    def __init__(self, settings: Settings, launcher: Launcher | None = None) -> None:
        self._settings = settings
        self._fixed_launcher = launcher
        self._made: Launcher | None = None
        #: vCPUs and MiB of the pilots that `_made` launches.
        self._room = LEAST
        #: Job -> vCPUs and MiB of each of its cells.
        self._needs: dict[str, tuple[int, int]] = {}
        self._launched = self._ended = 0
        self._has_sent = False

    @property
    def are_due(self) -> bool:
        """Whether something was sent and no pilot launched yet."""
        return self._has_sent and not self._launched

    def note(self, native_id: str, request: JobRequest) -> None:
        """Says that a job was sent."""
        self._has_sent = True
        cpus, memory_mb = resources(request.definition)
        self._needs[native_id] = cpus, request.memory_mb or memory_mb

    def keep(self, pool: PoolStore, now_ms: int) -> None:
        """Launches what pilots are lacking. Where nothing moves and tasks wait, looks whether they wait for nothing.

        Raises
        ------
        BackendFailed
            They end again and again without having done anything.
        """
        counts = pool.counts()
        backlog, held = counts.of(TaskState.TODO), counts.of(TaskState.HELD)
        if not backlog and not held and counts.of(TaskState.WAITING):
            backlog = pool.sweep(now_ms=now_ms)
        if not backlog:
            return
        wanted = min(self._settings.pool.pilots, backlog + held)
        missing = wanted - (self._fixed_launcher or self._made or self._launcher(pool)).alive("")
        if missing <= 0:
            return
        ended = counts.of(TaskState.DONE) + counts.of(TaskState.FAILED)
        if ended != self._ended:
            self._ended, self._launched = ended, 0
        if self._launched >= MOST_LAUNCHES * self._settings.pool.pilots:
            raise BackendFailed(
                f"{self._launched} pilots ended without having done anything, and {backlog} tasks are left. Try one "
                f"by hand and see what it says: batch-pipeline pool work --pool {pool_url(self._settings)}"
            )
        self._launcher(pool).launch("", missing)
        self._launched += missing

    def close(self) -> None:
        """Lets go of connections; pilots go on."""
        if isinstance(self._made, BatchLauncher):
            self._made.close()
        self._made = None

    def _launcher(self, pool: PoolReader) -> Launcher:
        """One whose pilots have room for what is left by now: what ran out of memory goes again with more."""
        if self._fixed_launcher is not None:
            return self._fixed_launcher
        room = self._largest(pool)
        if self._made is None or room != self._room:
            self.close()
            self._made, self._room = run_launcher(self._settings, cpus=room[0], memory_mb=room[1]), room
        return self._made

    def _largest(self, pool: PoolReader) -> tuple[int, int]:
        """vCPUs and MiB of the largest cell, of those that others sent too. Here pilots take what there is."""
        if self._settings.backend.name != "embedded":
            for nest in pool.nests():
                if nest.parent not in self._needs and any(map(nest.counts.get, _MOVING)):
                    task = next(tasks_of(pool, Filter(parent=nest.parent, states=_MOVING)), None)
                    cell_needs = needs_of_cell(self._settings, task.spec.environment) if task is not None else None
                    self._needs[nest.parent] = cell_needs or LEAST
        needs = [LEAST, *self._needs.values()]
        return max(cpus for cpus, _ in needs), max(memory_mb for _, memory_mb in needs)
