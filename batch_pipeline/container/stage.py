"""Stage in: brings a cell's inputs to its scratch folder and checks that they are those the plan saw.

Three kinds: source files, whose ETag and size the manifest's row promises; results of upstream steps, which their
receipt vouches for; and, for a gather, results of every sample (of a group its members', of a sample its parts'). A
folder's files are linked, others downloaded, eight at a time, and digested on the way. Each lies under its own name in
`in-{port}/`, so a tool that writes an index beside its input writes it to scratch.

(A little longer than most modules: each kind of port has its own way of finding its files.)
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from batch_pipeline.container.disk import PRIVATE
from batch_pipeline.container.fetch import located
from batch_pipeline.container.files import Files, Link, StagedFile
from batch_pipeline.container.logger import Logger
from batch_pipeline.container.parallel import Stop, in_parallel
from batch_pipeline.container.process_cache import ProcessCache
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import DIRECTORY
from batch_pipeline.wire.durable import make_folder
from batch_pipeline.wire.errors import ContractBroken, MissingInput
from batch_pipeline.wire.manifest import InputSpec, Manifest, ReferenceSpec, Row, SourceFile
from batch_pipeline.wire.receipt import FileRecord, Receipt
from batch_pipeline.wire.store import NotInStore

LOGGER = Logger(__name__)


@dataclass(kw_only=True)
class Staged:
    """What a step finds, and what the receipt will say about it."""

    input_files: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    gathered_files: dict[str, dict[str, tuple[Path, ...]]] = field(default_factory=dict)
    #: Of ports that read a directory: its folder.
    input_folders: dict[str, Path] = field(default_factory=dict)
    gathered_folders: dict[str, dict[str, Path]] = field(default_factory=dict)
    upstream_metrics: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    gathered_metrics: dict[str, dict[str, Mapping[str, Any]]] = field(default_factory=dict)
    records: list[FileRecord] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    #: Of all files, linked ones included.
    size_bytes: int = 0

    def with_references(self, specs: Sequence[ReferenceSpec]) -> Staged:
        """With references, whose bytes were compared with these when they came to this host."""
        records = [FileRecord(port=s.port, key=s.key, size_bytes=s.size_bytes, etag=s.etag) for s in specs]
        return replace(self, records=[*self.records, *records])


@dataclass(frozen=True, kw_only=True)
class FileToStage:
    """One file to bring: where from, where to, and what it must be like."""

    port: str
    files: Files
    key: str
    #: As the receipt names it: key in the store, or URL.
    name: str
    folder: str
    file: str
    size_bytes: int
    #: Empty: not promised.
    etag: str = ""
    sha256: str = ""
    #: `Store.version` when it was published, if that was noted.
    version: str = ""
    #: Step and sample whose receipt promises it; None: no receipt does.
    cell: tuple[str, str] | None = None

    @property
    def destination(self) -> str:
        """Where it will lie."""
        return f"{self.folder}/{self.file}"


class Stager:
    """Stages the inputs of one cell."""

    def __init__(self, manifest: Manifest, row: Row, files: Files, cache: ProcessCache, folder: str) -> None:
        self._manifest = manifest
        self._row = row
        self._files = files
        self._cache = cache
        self._folder = folder
        #: Files that steps made, and the receipts that promise them.
        self._of_steps: tuple[list[FileToStage], dict[tuple[str, str], Receipt]] = ([], {})

    def stage(self) -> Staged:
        """Brings all inputs. Raises MissingInput, ContractBroken, DiskFull, StoreFailed, StepInterrupted."""
        began = time.perf_counter()
        staged = Staged()
        gathers = {spec.step for spec in self._manifest.inputs if spec.kind == "cohort"}
        upstream = self._receipts(
            [
                (step, layout.COHORT if step in gathers else self._row.at.get(step, self._row.sample), print_)
                for step, print_ in self._row.upstream.items()
            ]
        )
        gathered = self._receipts(
            [(step, sample, print_) for step, cells in self._manifest.gathered.items() for sample, print_ in cells]
        )
        staged.upstream_metrics = {step: receipt.metrics for (step, _), receipt in upstream.items()}
        for (step, sample), receipt in gathered.items():
            staged.gathered_metrics.setdefault(step, {})[sample] = receipt.metrics
        wanted: list[FileToStage] = []
        for spec in self._manifest.inputs:
            wanted += self._wanted(spec, upstream, gathered, staged)
        if any(spec.form == DIRECTORY for spec in self._manifest.inputs):
            from batch_pipeline.container.listed_ports import make_input_folders

            make_input_folders(self._manifest, self._row, staged, self._folder)
        self._of_steps = ([one for one in wanted if one.cell], {**upstream, **gathered})
        try:
            self._bring(wanted, staged)
        except _Untrue as error:
            raise MissingInput(self.retire_untrue(error.file) or error.message) from error
        LOGGER.info(
            "staged inputs",
            files=len(staged.records),
            linked=len(staged.links),
            size_bytes=staged.size_bytes,
            seconds=round(time.perf_counter() - began, 3),
            source=",".join(sorted({one.files.url_of("") for one in wanted})),
        )
        return staged

    def retire_untrue(self, suspect: FileToStage | None = None) -> str:
        """Retires receipts of results that this cell was to read and that are not what they say (see `doubt`)."""
        from batch_pipeline.container.doubt import retire_untrue

        wanted, receipts = self._of_steps
        return retire_untrue(wanted, suspect, receipts, run_id=self._manifest.run_id, files=self._files)

    def _receipts(self, cells: Sequence[tuple[str, str, str]]) -> dict[tuple[str, str], Receipt]:
        receipts = in_parallel([partial(self._receipt, *cell) for cell in cells], at_once=self._files.parallel)
        return {(step, sample): receipt for (step, sample, _), receipt in zip(cells, receipts, strict=True)}

    def _receipt(self, step: str, sample: str, fingerprint: str) -> Receipt:
        try:
            return Receipt.from_json(json.loads(self._files.read(layout.receipt(step, sample, fingerprint))))
        except NotInStore as error:
            raise MissingInput(_not_those(step, sample)) from error
        except (ValueError, TypeError, AttributeError) as error:
            from batch_pipeline.container.doubt import retire_unreadable

            cell = (step, sample)
            remedy = retire_unreadable(cell, fingerprint, run_id=self._manifest.run_id, files=self._files)
            raise MissingInput(f"The receipt of {step} for {sample} cannot be read ({error}). {remedy}") from error

    def _wanted(
        self,
        spec: InputSpec,
        upstream: Mapping[tuple[str, str], Receipt],
        gathered: Mapping[tuple[str, str], Receipt],
        staged: Staged,
    ) -> list[FileToStage]:
        """The files of one port; notes in `staged` where they will lie."""
        folder = f"{self._folder}/in-{spec.port}"
        if spec.kind == "source":
            wanted = self._sources(spec.port, self._row.sources.get(spec.port, ()), folder)
        elif spec.kind == "step":
            wanted = self._results(spec, self._row.at.get(spec.step, self._row.sample), upstream, folder)
        elif spec.kind == "cohort":
            wanted = self._results(spec, layout.COHORT, upstream, folder)
        elif spec.kind in ("gather", "alternatives"):
            by_sample = {
                sample: self._results(one, sample, gathered, f"{folder}/{sample}")
                for sample, one in self._gathered_specs(spec)
            }
            staged.gathered_files[spec.port] = {
                sample: tuple(Path(one.destination) for one in files) for sample, files in by_sample.items()
            }
            return [one for files in by_sample.values() for one in files]
        else:
            raise ContractBroken(f"Input {spec.port!r} is of the unknown kind {spec.kind!r}; submit again.")
        staged.input_files[spec.port] = tuple(Path(one.destination) for one in wanted)
        return wanted

    def _gathered_specs(self, spec: InputSpec) -> Iterator[tuple[str, InputSpec]]:
        """Sample and what is read of it, in the order of the list."""
        if spec.rows is not None:
            yield from ((name, spec) for name in spec.rows)
        elif spec.kind == "gather":
            yield from ((sample, spec) for sample, _ in self._manifest.gathered.get(spec.step, ()))
        yield from ((sample, spec.at(position)) for sample, position in spec.chosen)

    def _sources(self, port: str, sources: Sequence[SourceFile], folder: str) -> list[FileToStage]:
        names = [source.url.rpartition("/")[2] for source in sources]
        wanted = []
        for number, (source, name) in enumerate(zip(sources, names, strict=True)):
            absolute = "://" in source.url or source.url.startswith("/")
            files, key = located(source.url, self._cache) if absolute else (self._files, source.url)
            wanted.append(
                FileToStage(
                    port=port,
                    files=files,
                    key=key,
                    name=source.url,
                    # Two lanes may hold files of one name.
                    folder=f"{folder}/{number}" if names.count(name) > 1 else folder,
                    file=key.rpartition("/")[2],
                    size_bytes=source.size_bytes,
                    etag=source.etag,
                )
            )
        return wanted

    def _results(
        self, spec: InputSpec, sample: str, receipts: Mapping[tuple[str, str], Receipt], folder: str
    ) -> list[FileToStage]:
        """One sample's files of an upstream step: those its receipt has, for an optional output may not be there."""
        if (spec.step, sample) not in receipts:
            raise ContractBroken(f"The manifest does not say which {spec.step} of {sample} is meant; submit again.")
        return [
            FileToStage(
                port=spec.port,
                files=self._files,
                key=record.key,
                name=record.key,
                folder=folder,
                file=name,
                size_bytes=record.size_bytes,
                sha256=record.sha256,
                version=record.etag,
                cell=(spec.step, sample),
            )
            for name, record in self._records(spec, sample, receipts[spec.step, sample])
        ]

    def _records(self, spec: InputSpec, sample: str, receipt: Receipt) -> list[tuple[str, FileRecord]]:
        """The files of a port that a receipt has, each under the name that it is staged by."""
        wanted = [name.replace("{sample}", sample) for name in spec.files]
        if spec.form:
            from batch_pipeline.container.listed_ports import listed_records

            records = list(listed_records(spec, sample, receipt))
            missing = wanted[0] if not records else None
        else:
            known = {record.key: record for record in receipt.outputs}
            pairs = [(name, known.get(layout.result(spec.step, sample, name))) for name in wanted]
            missing = next((name for name, record in pairs if record is None), None)
            records = [(name, record) for name, record in pairs if record is not None]
        if missing is not None and spec.port in self._manifest.required:
            raise MissingInput(
                f"{spec.step} of {sample} has no {missing!r}, which input {spec.port!r} needs: other code made it. Run"
                f" {spec.step} again: the same command without --accept-code-changes does."
            )
        return records

    def _bring(self, wanted: Sequence[FileToStage], staged: Staged) -> None:
        stop = Stop()
        for folder in {one.destination.rpartition("/")[0] for one in wanted}:
            make_folder(folder, PRIVATE)
        several = any(one.files.parallel for one in wanted)
        for record, link in in_parallel([partial(_bring_one, one, stop) for one in wanted], at_once=several, stop=stop):
            staged.records.append(record)
            staged.size_bytes += record.size_bytes
            if link is not None:
                staged.links.append(link)


class _Untrue(MissingInput):
    """A result is not what its receipt says."""

    def __init__(self, file: FileToStage, cell: tuple[str, str]) -> None:
        super().__init__(_not_those(*cell))
        self.file = file


def _bring_one(one: FileToStage, stop: Stop) -> tuple[FileRecord, Link | None]:
    try:
        brought = one.files.bring(one.key, one.destination, stop.check)
    except NotInStore as error:
        if one.cell is not None:
            raise _Untrue(one, one.cell) from error
        raise MissingInput(f"{one.files.url_of(one.key)} is not there. Put it there and run again.") from error
    if one.cell is not None and not _is_result(one, brought):
        raise _Untrue(one, one.cell)
    if one.cell is None and (one.size_bytes, one.etag or brought.etag) != (brought.size_bytes, brought.etag):
        raise MissingInput(f"{one.files.url_of(one.key)} changed since it was planned; run the same command again.")
    record = FileRecord(
        port=one.port,
        key=one.name,
        size_bytes=brought.size_bytes,
        sha256=brought.sha256 or one.sha256,
        etag=brought.etag,
    )
    return record, brought.link


def _is_result(one: FileToStage, brought: StagedFile) -> bool:
    """Whether a file is the one that its receipt names; a linked one is read if it was written since then."""
    if brought.size_bytes != one.size_bytes:
        return False
    if brought.link is None:
        return brought.sha256 == one.sha256
    return one.version in ("", brought.version) or one.files.digest(one.key)[1] == one.sha256


def _not_those(step: str, sample: str) -> str:
    return f"The results of {step} for sample {sample} are not those the plan saw; run the same command again."
