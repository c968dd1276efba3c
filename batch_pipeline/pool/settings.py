"""Where the pool of a store is, unless somebody says, and how its pilots are launched: here, or as jobs of Batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from batch_pipeline import backends
from batch_pipeline.config import Settings, variable_of
from batch_pipeline.records.place import FOLDER_REMEDY, pool_url, state_folder
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.errors import BackendFailed, InvalidUse
from batch_pipeline.wire.job import text_of
from batch_pipeline.wire.scratch import private_folder

if TYPE_CHECKING:
    from batch_pipeline.pool.base import PoolStore
    from batch_pipeline.pool.pilots.autopilot import Launcher
    from batch_pipeline.pool.pilots.jobs import BatchLauncher
    from batch_pipeline.pool.pilots.launch import LocalLauncher
    from batch_pipeline.wire.store import Store


def require_reachable(url: str) -> None:
    """Raises InvalidUse for a pool that jobs on AWS cannot reach."""
    if url.startswith(("sqlite:", "memory:")):
        raise InvalidUse(f"Jobs on AWS cannot reach the pool {url}. Give one that they can: --pool dynamodb://TABLE.")


def pool_of(settings: Settings, *, create: bool = False) -> PoolStore:
    """The pool that the settings name. Raises PoolFailed, InvalidUse."""
    from batch_pipeline.pool.stores.opening import open_pool

    url = pool_url(settings)
    if create and url.startswith(f"sqlite://{state_folder(settings)}/"):
        private_folder(state_folder(settings), FOLDER_REMEDY)
    return open_pool(url, create=create, region=settings.aws.region, profile=settings.aws.profile)


def local_launcher(settings: Settings, url: str, arguments: Sequence[str]) -> LocalLauncher:
    """Launches pilots of a pool as processes of this machine, with the settings of this command."""
    from batch_pipeline.pool.pilots.launch import LocalLauncher, pilot_command, remembered

    location = settings.store_location
    store = ("--store", location if "://" in location else str(Path(location).expanduser().absolute()), "--prefix", "")
    environment = {variable_of(key): text for key in settings.origins if (text := _text(settings, key)) is not None}
    folder = remembered(Path(private_folder(state_folder(settings), FOLDER_REMEDY)), url)
    return LocalLauncher(pilot_command(url, (*store, *arguments)), folder, environment=environment)


def _text(settings: Settings, key: str) -> str | None:
    """A setting as its variable has it; None for one that is no concern of a pilot."""
    section, _, name = key.partition(".")
    if section not in ("aws", "backend", "embedded", "store", "pool"):
        return None
    return text_of(getattr(getattr(settings, section), name))


def batch_launcher(
    settings: Settings, store: Store, url: str, arguments: Sequence[str], *, cpus: int, memory_mb: int
) -> BatchLauncher:
    """Launches pilots of a pool as array jobs. Raises InvalidUse for a pool that jobs elsewhere cannot reach."""
    from batch_pipeline.backends.definitions import pilot_definition
    from batch_pipeline.pool.pilots.jobs import BatchLauncher

    if settings.backend.name == "aws":
        require_reachable(url)
    definition = pilot_definition(settings, cpus=cpus, memory_mb=memory_mb)
    return BatchLauncher(backends.create(settings), settings, store, url, arguments, definition)


def run_launcher(settings: Settings, *, cpus: int, memory_mb: int) -> Launcher:
    """Launches the pilots of a run: processes of this machine, or, on AWS, array jobs with room for all they run."""
    pool = settings.pool
    arguments = ("--items", str(pool.items), "--nests", str(pool.nests), "--lease", f"{pool.lease_seconds:g}")
    if settings.backend.name == "embedded":
        return local_launcher(settings, pool_url(settings), arguments)
    slots = pool.items * pool.nests
    store, url = _store_of(settings), pool_url(settings)
    return batch_launcher(settings, store, url, arguments, cpus=cpus * slots, memory_mb=memory_mb * slots)


def needs_of_cell(settings: Settings, environment: Mapping[str, str]) -> tuple[int, int] | None:
    """vCPUs and MiB of the cell that a task is, by its manifest; None for what is no cell of this store."""
    from batch_pipeline.wire.store import NotInStore

    store, key = _store_of(settings), environment.get(Variable.MANIFEST)
    if not key or environment.get(Variable.STORE) != store.url:
        return None
    try:
        manifest = store.get_json(key)
    except NotInStore:
        return None
    return int(manifest["cpus"]), int(manifest["memory_mb"])


def _store_of(settings: Settings) -> Store:
    from batch_pipeline.backends.credentials import reach_of
    from batch_pipeline.wire.store import open_store

    return open_store(settings.store_location, reach=reach_of(settings))


def job_states(settings: Settings, native_ids: Sequence[str]) -> Mapping[str, str]:
    """What the places where pilots run say of them; of those that nobody knows, nothing."""
    from batch_pipeline.pool.overview import process_states

    states = process_states(native_ids)
    others = [name for name in native_ids if "/" not in name and "_" not in name]
    if not others:
        return states
    backend = backends.create(settings)
    try:
        descriptions = backend.descriptions(others)
    except BackendFailed:
        return states
    finally:
        backend.close()
    return {**states, **{name: str(job.get("status", "")) for name, job in descriptions.items()}}
