"""Which backend a run has: pilots on a pool, or array jobs. The one place where the core reaches into the pool."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from batch_pipeline import backends
from batch_pipeline.backends import LIMITS
from batch_pipeline.config import Settings
from batch_pipeline.records.place import pool_url
from batch_pipeline.wire.errors import InvalidUse

if TYPE_CHECKING:
    from batch_pipeline.backends.base import Backend
    from batch_pipeline.pipeline.plan import Limits


class LazyBackend:
    """A backend that is made at first use: a command with nothing to do never needs it."""

    def __init__(self, backend: Backend | None = None) -> None:
        self._backend = backend

    def open(self, settings: Settings) -> Backend:
        """The backend; made with these settings at the first call, and the same one ever after."""
        if self._backend is None:
            self._backend = backend_of(settings)
        return self._backend

    def limits(self, settings: Settings) -> Limits:
        """The backend's limits, known by its name alone as long as nothing else needs a backend, or lower ones."""
        limits = self._backend.limits() if self._backend else LIMITS[settings.backend.name]
        bound = None if settings.pool.pilots else limits.max_live_children
        return replace(
            limits,
            max_live_children=settings.backend.max_children or bound,
            holds_widths=limits.holds_widths and not settings.pool.pilots,
            most_calls=settings.backend.most_calls,
        )

    def close(self) -> None:
        """Closes the backend's connections, if it was made; jobs go on."""
        if self._backend is not None:
            self._backend.close()


def backend_of(settings: Settings) -> Backend:
    """The backend of a run: pilots on a pool if the settings want some, else array jobs.

    Raises InvalidUse for pilots on AWS without an image or without a pool that they can reach.
    """
    if settings.pool.pilots:
        from batch_pipeline.pool.pooled import PoolBackend
        from batch_pipeline.pool.settings import require_reachable

        if settings.embedded.container and settings.backend.name == "embedded":
            raise InvalidUse("Pilots on this machine run steps as processes, not in containers. Drop --container.")
        if settings.backend.name == "aws":
            require_reachable(pool_url(settings))
            if not settings.pool.image:
                raise InvalidUse(
                    "Pilots on AWS run in an image of your own: set pool.image; docs/pool.md has a recipe."
                )

        return PoolBackend(settings)
    return backends.create(settings)
