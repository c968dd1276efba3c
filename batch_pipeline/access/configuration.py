"""The configuration that a driver's script gets: what the run is, and below it what the user gave. TOML, immutable.

    [workflow]    run_id, dataset, access_level, description, repository, commit, image, …      written here
    [storage]     store, output_prefix, output                                                  written here
    […]           the user's own tables, merged from left to right                              `--config`

The gate has refused tables of the user's by these names, and they are written last all the same.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from batch_pipeline.access.gate import Grant
from batch_pipeline.access.names import folder_of
from batch_pipeline.access.policy import DatasetPolicy
from batch_pipeline.access.request import Level, SubmitRequest, UserIdentity
from batch_pipeline.wire.errors import InvalidConfig


def read_configs(files: Iterable[str]) -> dict[str, Any]:
    """The user's files merged from left to right, table by table. Raises InvalidConfig for one that is no TOML."""
    merged: dict[str, Any] = {}
    for file in files:
        try:
            value = tomllib.loads(Path(file).expanduser().read_text(encoding="utf-8"))
        except OSError as error:
            raise InvalidConfig(
                f"The configuration {file} cannot be read: {error.strerror}. Check --config."
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidConfig(f"The configuration {file} is not valid TOML: {error}. Fix that line.") from error
        merged = _merged(merged, value)
    plain: dict[str, Any] = _plain(merged)
    return plain


def driver_config(grant: Grant, run_id: str) -> dict[str, Any]:
    """The configuration of a run that was let through."""
    workflow = {
        "run_id": run_id,
        "dataset": grant.dataset,
        "access_level": grant.level.value,
        "description": grant.description,
        "user": grant.identity.name,
        "repository": grant.repository,
        "commit": grant.commit,
        "cwd": grant.cwd,
        "script": list(grant.script),
        "image": grant.image,
        "policy_sha256": grant.policy_sha256,
    }
    return {**grant.config, "workflow": workflow, "storage": _storage(grant.store, grant.output)}


def previewed_config(request: SubmitRequest, policy: DatasetPolicy, identity: UserIdentity) -> dict[str, Any]:
    """The same for a request that has passed `precheck` alone: commit and image are as the request names them."""
    place = policy.levels[Level(request.access_level)]
    rule = policy.repository(request.repository) if request.repository else None
    workflow = {
        "run_id": "(given when it is submitted)",
        "dataset": request.dataset,
        "access_level": request.access_level,
        "description": request.description.strip(),
        "user": identity.name,
        "repository": rule.url if rule is not None else "",
        "commit": request.commit,
        "cwd": folder_of(request.cwd),
        "script": list(request.script),
        "image": request.image or place.image,
        "policy_sha256": policy.sha256,
    }
    return {
        **request.config,
        "workflow": workflow,
        "storage": _storage(place.store, place.output_of(request.output_dir)),
    }


def _storage(store: str, output: str) -> dict[str, Any]:
    return {"store": store, "output_prefix": output, "output": f"{store.rstrip('/')}/{output}"}


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    both = {**first, **second}
    for key in first.keys() & second.keys():
        if isinstance(first[key], Mapping) and isinstance(second[key], Mapping):
            both[key] = _merged(first[key], second[key])
    return both


def _plain(value: Any) -> Any:
    """The value as JSON can carry it to a server: moments as texts."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.isoformat() if isinstance(value, datetime | date | time) else value
