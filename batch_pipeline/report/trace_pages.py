"""A trace as a tree of words, and as a JSON value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from batch_pipeline.provenance.trace import Maker, Trace, Traced
from batch_pipeline.records.results import Cell
from batch_pipeline.report.run_pages import NO_IMAGE, code_of
from batch_pipeline.wire import layout


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A node of the tree: its lines, and what it grew from."""

    lines: Sequence[str]
    children: Sequence[Branch] = ()


def tree_of(trace: Trace) -> Branch:
    """The file, the cell that made it, what that read, and so on; a cell that several read from is told once."""
    shown: set[Cell] = set()
    return Branch(lines=[_file(trace.file)], children=list(_grown(trace, [trace.file], shown)))


def _grown(trace: Trace, files: Sequence[Traced], shown: set[Cell]) -> Iterator[Branch]:
    """The cells that made these files."""
    for cell in dict.fromkeys(file.maker for file in files if file.maker):
        maker = trace.makers.get(cell)
        if maker is None:
            continue
        if cell in shown:
            yield Branch(lines=[f"{_name(cell)}, as above"])
            continue
        shown.add(cell)
        yield Branch(lines=list(_about(maker)), children=list(_inputs(trace, cell, shown)))


def _inputs(trace: Trace, cell: Cell, shown: set[Cell]) -> Iterator[Branch]:
    """What a cell read: the files of one maker together, then those of no maker."""
    read = trace.inputs.get(cell, ())
    for maker in dict.fromkeys(file.maker for file in read):
        files = [file for file in read if file.maker == maker]
        lines = [f"{file.port}: {_file(file)}" for file in files]
        yield Branch(lines=lines, children=list(_grown(trace, files, shown)) if maker else ())


def _file(file: Traced) -> str:
    digest = f", sha256 {file.sha256}" if file.sha256 else ""
    etag = f", ETag {file.etag}" if file.etag and (file.maker is None or not file.sha256) else ""
    kind = "" if file.maker else ", a source"
    removed = f", {file.removed}" if file.removed else ""
    problem = f" - {file.problem}" if file.problem else ""
    return f"{file.key} ({file.size_bytes:,} bytes{digest}{etag}{kind}{removed}){problem}"


def _about(maker: Maker) -> Iterator[str]:
    receipt, run = maker.receipt, maker.run
    yield f"{_name((maker.step, maker.sample))}, done {receipt.stopped_at} on {receipt.host or 'a host'}"
    if run is None:
        yield f"run: {receipt.run_id}, whose record is gone"
    else:
        yield f"run: {run.run_id} by {run.identity or run.user}, {run.started_at}"
        if run.commit:
            changes = f", difference sha256 {run.diff_sha256}" if run.diff_sha256 else ""
            yield f"code: {' '.join((run.repository, run.commit)).strip()} ({code_of(run)}){changes}"
        yield f"bundle: {run.bundle_sha256}"
        yield f"command: {' '.join(run.argv)}"
    yield f"image: {maker.image or NO_IMAGE}"
    if receipt.versions:
        yield f"tools: {', '.join(f'{tool} {version}' for tool, version in receipt.versions.items())}"
    if maker.params:
        yield f"parameters: {', '.join(f'{name}={value}' for name, value in maker.params.items())}"
    yield f"receipt: {maker.receipt_key}"


def _name(cell: Cell) -> str:
    return f"{cell[0]} of {'all samples' if cell[1] == layout.COHORT else cell[1]}"


def trace_record(trace: Trace) -> dict[str, Any]:
    """The trace as a JSON value: cells once each, its own first."""
    return {
        "format": 1,
        "file": _file_record(trace.file),
        "cells": [_cell_record(trace, cell, maker) for cell, maker in trace.makers.items()],
        "sources": [_file_record(file) for file in trace.sources],
        "problems": trace.problems,
    }


def _file_record(file: Traced) -> dict[str, Any]:
    made_by = {"step": file.maker[0], "sample": file.maker[1]} if file.maker else None
    record = {"key": file.key, "port": file.port, "size_bytes": file.size_bytes, "sha256": file.sha256}
    return record | {"etag": file.etag, "made_by": made_by, "problem": file.problem, "removed": file.removed}


def _cell_record(trace: Trace, cell: Cell, maker: Maker) -> dict[str, Any]:
    receipt, run = maker.receipt, maker.run
    code = {} if run is None else {name: getattr(run, name) for name in _OF_CODE}
    return {
        "step": maker.step,
        "sample": maker.sample,
        "receipt": maker.receipt_key,
        "run_id": receipt.run_id,
        **code,
        "image": maker.image,
        "params": dict(maker.params),
        "versions": dict(receipt.versions),
        "attempt": receipt.attempt,
        "started_at": receipt.started_at,
        "stopped_at": receipt.stopped_at,
        "host": receipt.host,
        "native_id": receipt.native_id,
        "inputs": [_file_record(file) for file in trace.inputs.get(cell, ())],
    }


_OF_CODE = ("repository", "commit", "branch", "dirty", "diff_sha256", "bundle_sha256", "argv", "user", "identity")
