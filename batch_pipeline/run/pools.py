"""Where the pool of a store is, unless somebody says, and how its pilots are launched: here, or as jobs of Batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from batch_pipeline.config import Settings
from batch_pipeline.wire.digest import fingerprint_of
from batch_pipeline.wire.errors import BackendFailed

if TYPE_CHECKING:
    from batch_pipeline.pool.launch import LocalLauncher
    from batch_pipeline.run.pilots import BatchLauncher
    from batch_pipeline.wire.store import Store


def pool_url(settings: Settings) -> str:
    """The URL of the pool: as the settings say, else SQLite in the store's folder or, for another store, in ours."""
    if settings.pool.url:
        url = settings.pool.url
        return url if "://" in url or url.startswith("sqlite:") else f"sqlite://{Path(url).expanduser().absolute()}"
    location = settings.store_location
    if "://" in location and not location.startswith("file://"):
        return f"sqlite://{state_folder(settings) / f'{fingerprint_of(location)}.sqlite'}"
    return f"sqlite://{Path(location.removeprefix('file://')).expanduser().absolute() / 'pool' / 'pool.sqlite'}"


def state_folder(settings: Settings) -> Path:
    """The folder of this machine for pools and pilots."""
    return settings.embedded.folder.parent / "pools"


def local_launcher(settings: Settings, url: str, arguments: Sequence[str]) -> LocalLauncher:
    """Launches pilots of a pool as processes of this machine."""
    from batch_pipeline.pool.launch import LocalLauncher, pilot_command, remembered

    location = settings.store_location
    store = ("--store", location if "://" in location else str(Path(location).expanduser().absolute()))
    return LocalLauncher(pilot_command(url, (*store, *arguments)), remembered(state_folder(settings), url))


def batch_launcher(
    settings: Settings, store: Store, url: str, arguments: Sequence[str], *, cpus: int, memory_mb: int
) -> BatchLauncher:
    """Launches pilots of a pool as array jobs. Raises InvalidUse for a pool that jobs elsewhere cannot reach."""
    from batch_pipeline import backends
    from batch_pipeline.backends.definitions import pilot_definition
    from batch_pipeline.run.pilots import BatchLauncher

    definition = pilot_definition(settings, cpus=cpus, memory_mb=memory_mb)
    return BatchLauncher(backends.create(settings), settings, store, url, arguments, definition)


def job_states(settings: Settings, native_ids: Sequence[str]) -> Mapping[str, str]:
    """What the places where pilots run say of them; of those that nobody knows, nothing."""
    from batch_pipeline import backends
    from batch_pipeline.pool.overview import process_states

    found = process_states(native_ids)
    others = [name for name in native_ids if "/" not in name and "_" not in name]
    if not others:
        return found
    backend = backends.create(settings)
    try:
        told = backend.descriptions(others)
    except BackendFailed:
        return found
    finally:
        backend.close()
    return {**found, **{name: str(job.get("status", "")) for name, job in told.items()}}
