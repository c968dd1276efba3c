"""Where the pool of a store is, unless somebody says: beside what it works for."""

from __future__ import annotations

from pathlib import Path

from batch_pipeline.config import Settings
from batch_pipeline.wire.digest import fingerprint_of


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
