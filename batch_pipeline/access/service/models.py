"""Pydantic models of requests and responses, as in OpenAPI. Strict: nothing is coerced, unknown keys are errors.

(`access.gate` decides on a request's content; here is only its form.)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from batch_pipeline.access.names import MOST_BYTES, MOST_ITEMS, MOST_PATH, MOST_TEXT
from batch_pipeline.access.request import SubmitRequest
from batch_pipeline.access.service.catalogue import RunHistory, RunPage, RunView
from batch_pipeline.access.service.files import Listing

MOST_DEPTH: Final = 20
_KINDS: Final = (str, bool, int, float, list, dict)


def _as_toml_has_it(value: dict[str, Any]) -> dict[str, Any]:
    """Refuses what a configuration in TOML cannot hold."""
    for item, depth in _items(value, 0):
        if depth > MOST_DEPTH:
            raise ValueError(f"it is deeper than {MOST_DEPTH} tables")
        if not isinstance(item, _KINDS):
            raise ValueError("null is no value of TOML")
        if isinstance(item, int) and not -(2**63) <= item < 2**63:
            raise ValueError("a number of TOML has 64 bits")
    try:
        size = len(json.dumps(value, ensure_ascii=False).encode())
    except UnicodeEncodeError as error:
        raise ValueError("a text is not Unicode") from error
    if size > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES // 1024} KiB")
    return value


def _items(value: Any, depth: int) -> Iterator[tuple[Any, int]]:
    yield value, depth
    if depth > MOST_DEPTH:
        return
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        yield from _items(item, depth + 1)


class Strict(BaseModel):
    """What every model here is."""

    model_config = ConfigDict(extra="forbid", strict=True)


class RunRequest(Strict):
    """A run, as it is asked for."""

    dataset: str = Field(max_length=40)
    description: str = Field(max_length=MOST_TEXT)
    access_level: str = Field(max_length=40, description="test, standard or full")
    output_dir: str = Field(max_length=MOST_PATH, description="where below the level's outputs")
    script: list[str] = Field(min_length=1, max_length=MOST_ITEMS, description="the script and its arguments")
    repository: str = Field("", max_length=MOST_PATH)
    commit: str = Field("", max_length=200)
    cwd: str = Field("", max_length=MOST_PATH)
    image: str = Field("", max_length=512)
    environment: dict[str, str] = Field(default_factory=dict, max_length=MOST_ITEMS)
    config: Annotated[dict[str, Any], AfterValidator(_as_toml_has_it)] = Field(default_factory=dict)
    cpu: float = Field(1.0, ge=0.25, le=192, allow_inf_nan=False)
    memory_mb: int = Field(2048, ge=128, le=1_536_000)
    dirty: bool = False
    confirmed: bool = False

    def to_submit_request(self) -> SubmitRequest:
        """As the gate takes it. Raises Refused."""
        return SubmitRequest.from_json(self.model_dump())


class Started(BaseModel):
    """A run that was submitted."""

    run_id: str
    #: The backend's id of the driver's job.
    native_id: str
    #: Where it writes.
    output: str
    #: Its page, from the service's root.
    url: str


class ProblemDetail(BaseModel):
    """One thing that stands against what was asked."""

    thing: str
    rule: str
    remedy: str
    status: int


class ErrorAnswer(BaseModel):
    """Every answer that is none."""

    error: str
    problems: list[ProblemDetail]
    request_id: str


class Health(BaseModel):
    """Whether the service is up."""

    status: str
    version: str


class RunSummary(BaseModel):
    """A run in a list."""

    run_id: str
    dataset: str
    access_level: str
    kind: str
    status: str
    problem: str
    started_at: str
    ended_at: str
    user: str
    identity: str
    description: str
    repository: str
    commit: str
    pipeline: str
    argv: list[str]
    samples: int
    jobs: int
    done: int
    failed: int
    #: Where its outputs can be viewed; empty: nowhere.
    results: str

    @classmethod
    def of(cls, view: RunView) -> RunSummary:
        """From a record."""
        record = view.record
        plain = {name: getattr(record, name) for name in cls.model_fields if hasattr(record, name)}
        url = f"/{view.results}/" if view.results else ""
        return cls(**plain | {"dataset": view.dataset, "results": url, "argv": list(record.argv)})


class RunList(BaseModel):
    """Runs, newest first."""

    runs: list[RunSummary]
    #: Pass it as `before` for those that come next; empty: there are none.
    next: str
    #: Datasets that could not be asked now.
    unread: list[str]

    @classmethod
    def of(cls, page: RunPage) -> RunList:
        """From what was found."""
        last = page.runs[-1].record.run_id if page.more and page.runs else ""
        return cls(runs=[RunSummary.of(view) for view in page.runs], next=last, unread=list(page.unread))


class RunDetail(BaseModel):
    """One run: its record as it is in the store, its jobs, and what happened to it."""

    run: RunSummary
    record: dict[str, Any]
    jobs: list[dict[str, Any]]
    events: list[dict[str, Any]]
    failed: list[dict[str, Any]]

    @classmethod
    def of(cls, history: RunHistory) -> RunDetail:
        """From all that is known."""
        return cls(
            run=RunSummary.of(history.view),
            record=asdict(history.view.record),
            jobs=[asdict(job) for job in history.sent],
            events=[asdict(event) for event in history.events],
            failed=[asdict(cell) | {"reason": cell.reason.value} for cell in history.failed],
        )


class FolderEntry(BaseModel):
    """A file of a folder."""

    name: str
    size_bytes: int


class FolderAnswer(BaseModel):
    """What is right below a folder."""

    path: str
    folders: list[str]
    files: list[FolderEntry]
    #: There is more than is shown.
    cut: bool

    @classmethod
    def of(cls, path: str, listing: Listing) -> FolderAnswer:
        """From a listing."""
        files = [FolderEntry(name=name, size_bytes=size) for name, size in listing.files]
        return cls(path=path, folders=list(listing.folders), files=files, cut=listing.cut)
