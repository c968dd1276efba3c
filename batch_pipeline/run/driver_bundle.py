"""The bundle of a driver that runs as a job: what the command saw, by its digest.

It has the file that wires the steps with all that it imports, the steps' code, job definitions and pinned images, and
in `.batch_pipeline/` the settings as merged, the sample list as read, and which cells are meant. Settings have no
secrets; one that looks like a secret is refused.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from batch_pipeline.backends.definitions import FOLDER as DEFINITIONS
from batch_pipeline.config import SECTIONS, Settings
from batch_pipeline.pipeline.code import code_of, local_imports
from batch_pipeline.pipeline.images import FILE as IMAGES
from batch_pipeline.pipeline.plan import Selection
from batch_pipeline.pipeline.workflow import file_of
from batch_pipeline.records.place import place_of
from batch_pipeline.records.request import Request
from batch_pipeline.records.toml import to_toml
from batch_pipeline.run.bundle import Bundle, pack
from batch_pipeline.run.local_capacity import embedded_capacity
from batch_pipeline.wire.errors import InvalidPipeline, InvalidUse
from batch_pipeline.wire.scrub import scrubbed_value, scrubbed_words

#: Files of the bundle that are no code.
SETTINGS: Final = ".batch_pipeline/settings.toml"
SAMPLES: Final = ".batch_pipeline/samples.tsv"
PRICES: Final = ".batch_pipeline/prices.csv"
REQUEST: Final = ".batch_pipeline/request.json"
#: MiB of a driver with a short list, and samples of the list for each MiB more: a million take 5 GiB.
MEMORY_MB: Final = 768
SAMPLES_PER_MB: Final = 200
#: Settings that a driver has no use for, or that are of the machine where the command was given.
_LEFT_OUT: Final = ("access", "server", "deploy", "pool")


def memory_mb_of(request: Request) -> int:
    """MiB that a driver of so many samples gets."""
    return MEMORY_MB + len(request.samples) // SAMPLES_PER_MB


def pack_driver(request: Request) -> Bundle:
    """Packs what the job runs. Raises InvalidPipeline for a file that is missing, InvalidUse for a secret."""
    root, file = request.graph.root, file_of(request.workflow)
    names = {name for node in request.graph for name in code_of(type(node.step), root)}
    names |= {path.relative_to(root) for path in (file, *local_imports(file, root))}
    names |= {
        path.relative_to(root) for path in (*(root / DEFINITIONS).glob("*.json"), root / IMAGES) if path.is_file()
    }
    chosen = request.selection
    meant = {
        "samples": sorted(chosen.samples) if chosen.samples is not None else None,
        "steps": sorted(chosen.steps) if chosen.steps is not None else None,
        "force": chosen.force,
        "accept_code_changes": chosen.accept_code_changes,
        "share_steps": request.share_steps,
        "sources": request.sources,
        "sheet_folder": request.sheet_folder,
        "argv": scrubbed_words(request.argv),
    }
    settings = _job_settings(request)
    texts = {}
    if (prices := request.settings.prices.own_file).is_file():
        settings["prices"]["file"] = PRICES
        texts[PRICES] = prices.read_bytes()
    texts |= {
        SETTINGS: to_toml(settings).encode(),
        SAMPLES: request.samples.to_tsv(),
        REQUEST: json.dumps(meant, sort_keys=True).encode(),
    }
    try:
        return pack(root, names, texts)
    except OSError as error:
        raise InvalidPipeline(f"{error.filename} cannot be read: {error.strerror}. Check its rights.") from error


def ordered_request(request: Request, file: Path) -> Request:
    """The request of a driver in its job, with what its bundle says of cells and sources."""
    meant = json.loads(file.read_text(encoding="utf-8"))
    chosen = {name: frozenset(meant[name]) if meant[name] is not None else None for name in ("samples", "steps")}
    selection = Selection(
        **chosen,
        force=meant["force"],
        accept_code_changes=meant["accept_code_changes"],
        min_success=request.selection.min_success,
    )
    given = {name: meant[name] for name in ("share_steps", "sources", "sheet_folder")}
    return replace(request, selection=selection, argv=tuple(meant["argv"]), **given)


def _job_settings(request: Request) -> dict[str, Any]:
    """The settings of the command as its driver needs them elsewhere."""
    settings = request.settings
    # What is a default there too may mean another thing once it is written.
    values = {
        section: {
            name: value
            for name, value in asdict(getattr(settings, section)).items()
            if f"{section}.{name}" in settings.origins
        }
        for section in SECTIONS
        if section not in _LEFT_OUT
    }
    values |= {"tags": dict(settings.tags), "params": dict(settings.params), "steps": dict(settings.steps)}
    _require_readable(settings)
    # A reference to a secret looks like one.
    shown = values | {"notify": {**values["notify"], "url": ""}}
    if scrubbed_value(shown) != shown:
        secret = next(section for section in shown if scrubbed_value(shown[section]) != shown[section])
        raise InvalidUse(
            f"A setting in [{secret}] looks like a secret, and the settings of a driver lie in the store. Name where"
            " the secret is instead, or drop --driver batch."
        )
    values["store"] |= {"url": request.store.url, "prefix": ""}
    values["samples"] = {"file": SAMPLES}
    values["backend"]["driver"] = "here"
    values["watch"]["on_interrupt"] = "leave"
    if settings.notify.url.startswith("file:"):
        values["notify"]["url"] = f"file:{Path(settings.notify.url.removeprefix('file:')).expanduser().absolute()}"
    values["aws"] |= {"profile": "", "region": place_of(settings).get("aws.region", settings.aws.region)}
    if settings.backend.name == "embedded":
        values["embedded"]["state"] = str(settings.embedded.folder)
        there = embedded_capacity(settings.embedded)[1] - memory_mb_of(request)
        values["recovery"]["memory_cap_mb"] = min(filter(None, (settings.recovery.memory_cap_mb, there)))
    return values


def _require_readable(settings: Settings) -> None:
    """Raises InvalidUse unless a driver's job can read the URL that it notifies, and the store does not hold it."""
    kind = {"aws": "secretsmanager:", "embedded": "file:"}[settings.backend.name]
    if settings.notify.url and not settings.notify.url.startswith(kind):
        where = "secretsmanager:ARN" if settings.backend.name == "aws" else "file:PATH"
        raise InvalidUse(
            "The settings of a driver lie in the store, where the URL of notify.url must not, and its job has no"
            f" variables of this command. Name a place that the job can read, {where}, or drop --driver batch."
        )
