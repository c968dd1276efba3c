"""The receipt of a cell that is done, and the record of an attempt that failed. JSON with `"format": 1`.

A receipt is written last, by the container, after the outputs were checked and published: it is the only proof that a
(sample, step) is done. A failed attempt leaves a `Failure` beside its log, under another prefix, so that a listing of
receipts lists successes and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self, TypeVar

FORMAT = 1
T = TypeVar("T")


#: What others reckon or compare with must be of these types.
_OF_FILES: Mapping[str, type] = {"port": str, "key": str, "size_bytes": int, "sha256": str, "etag": str}
_OF_ATTEMPTS: Mapping[str, type] = {
    **dict.fromkeys(("run_id", "step", "sample", "fingerprint", "started_at", "stopped_at", "outcome"), str),
    "attempt": int,
    "metrics": Mapping,
    "versions": Mapping,
}


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """One file that a cell read or made."""

    #: Port of the step: `reads`, `abundance`.
    port: str
    #: Key in the store, or URL outside it.
    key: str
    size_bytes: int
    #: In hex. Of a linked input, whose bytes were not read, what the receipt of the step that made it says; else empty.
    sha256: str = ""
    #: Of inputs the ETag at staging. Of outputs in a folder `Store.version` at publication: while a file has it, it was
    #: not written since; else its bytes tell.
    etag: str = ""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What an attempt took. An attempt that was killed with its container left no record of it."""

    #: The largest process, or all together where several ran for long.
    peak_memory_bytes: int = 0
    cpu_seconds: float = 0.0
    #: Of the scratch folder: at the end, and now and then in an attempt of more than a second.
    peak_disk_bytes: int = 0
    staged_in_bytes: int = 0
    staged_out_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    run_id: str
    step: str
    sample: str
    fingerprint: str
    #: 1 for the first.
    attempt: int
    #: ISO-8601 UTC with milliseconds. Queued is empty when nobody told.
    queued_at: str = ""
    started_at: str
    stopped_at: str
    inputs: tuple[FileRecord, ...] = ()
    usage: Usage = field(default_factory=Usage)
    #: What the step noted: counts, quality figures. Numbers and short texts.
    metrics: Mapping[str, Any] = field(default_factory=dict)
    #: Versions of the tools: {"kallisto": "0.48.0"}.
    versions: Mapping[str, str] = field(default_factory=dict)
    host: str = ""
    #: What its job had; 0 when nobody told.
    cpus: int = 0
    memory_mb: int = 0
    #: On AWS, as far as it told: `m5.xlarge`, its zone, `spot` or `on-demand`.
    instance_type: str = ""
    availability_zone: str = ""
    purchase: str = ""
    #: The scheduler's id of the job or child.
    native_id: str = ""
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON value."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Reads a record; unknown keys of later versions are ignored.

        Raises TypeError or AttributeError for what is no record.
        """
        # What `fields` would look through anew for each record.
        known = cls.__dataclass_fields__
        data = {key: item for key, item in value.items() if key in known}
        for name in ("inputs", "outputs"):
            if name in data:
                data[name] = tuple(_checked(FileRecord(**item), _OF_FILES) for item in data[name])
        taken = data.get("usage", {})
        data["usage"] = Usage(**{name: taken[name] for name in Usage.__dataclass_fields__ if name in taken})
        return _checked(cls(**data), _OF_ATTEMPTS)


@dataclass(frozen=True, kw_only=True)
class Receipt(_Attempt):
    """Proof that a cell is done."""

    outcome: str = "succeeded"
    outputs: tuple[FileRecord, ...] = ()
    #: Digest of the metrics of the cells that it read, which its step could see; empty: they noted none.
    metrics_read: str = ""
    #: The attempt that found the cell unchanged and wrote this receipt again: `run_id`, `attempt` and `at`. Empty: none
    #: did. All else is of the attempt that made the results.
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def written_by(self) -> tuple[str, int]:
        """Run and attempt that wrote this receipt."""
        return (self.kept["run_id"], self.kept["attempt"]) if self.kept else (self.run_id, self.attempt)


@dataclass(frozen=True, kw_only=True)
class Failure(_Attempt):
    """What is known about a failed attempt."""

    outcome: str = "failed"
    #: Value of an `EndReason`.
    end_reason: str
    exit_code: int
    #: One sentence for people.
    message: str
    #: The last lines of the log, at most 2,000 characters.
    log_tail: str = ""


def _checked(record: T, types: Mapping[str, type]) -> T:
    """The record. Raises TypeError if a value is of another type: it was damaged, or written by hand."""
    for name, kind in types.items():
        value = getattr(record, name)
        if not isinstance(value, kind):
            raise TypeError(f"{name} is {value!r}")
    return record
