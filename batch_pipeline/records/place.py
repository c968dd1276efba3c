"""Where a run's jobs and its pool are, as the settings say: what leads to the backend, for the run record."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from batch_pipeline.config import Settings
from batch_pipeline.wire.digest import fingerprint_of
from batch_pipeline.wire.scratch import folder_beside, require_private

FOLDER_REMEDY: Final = "Name another state folder (embedded.state)"


def place_of(settings: Settings) -> dict[str, str]:
    """`section.key` -> value of what leads to the backend, for the run record; no secret is among it."""
    pilots = {"pool.pilots": str(settings.pool.pilots), "pool.url": pool_url(settings)} if settings.pool.pilots else {}
    if settings.backend.name == "embedded":
        state = {"embedded.state": str(settings.embedded.folder), "embedded.container": settings.embedded.container}
        return {**state, **pilots}
    region = settings.aws.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
    values = {"aws.region": region, "aws.endpoint": settings.aws.endpoint, **pilots}
    return {key: value for key, value in values.items() if value}


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
    """The folder of this machine for pools and pilots. Raises UnsafeFolder where others could say what pilots run."""
    folder = folder_beside(settings.embedded.folder, "pools")
    if folder.exists():
        require_private(folder.resolve(), FOLDER_REMEDY)
    return folder
