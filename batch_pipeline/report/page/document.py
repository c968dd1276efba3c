"""Puts the page of a run or a store together: one HTML file, its data packed inside, and no request allowed.

The content security policy of the page admits its own script and style by their digests and no request at all, so that
a sample's name or a log that looks like code is text and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any, Final

from batch_pipeline.backends.prices import Tariff, tariff_of
from batch_pipeline.config import Settings
from batch_pipeline.records.cell_table import REASONS
from batch_pipeline.records.record import RunRecord
from batch_pipeline.report.graph_svg import graph_svg
from batch_pipeline.report.page.costs import run_costs
from batch_pipeline.report.page.curves import curves_svg, step_curve
from batch_pipeline.report.page.details import CellDetail
from batch_pipeline.report.page.distributions import distributions_section
from batch_pipeline.report.page.failure_section import failures_section
from batch_pipeline.report.page.failures import root_causes_of
from batch_pipeline.report.page.html import section, text
from batch_pipeline.report.page.packing import PACKED, TimeScale, packed_names, packed_step
from batch_pipeline.report.page.runs import driver_section, runs_section, store_head
from batch_pipeline.report.page.source import MOST_RUNS, CellSource, RunSource, StoreSource
from batch_pipeline.report.page.states import ShownState
from batch_pipeline.report.page.summary import (
    commands_of,
    costs_section,
    head,
    provenance_section,
    state_counts,
    steps_table,
)

#: Parts of the page's script, in their order.
SCRIPTS: Final = ("cells.js", "choose.js", "map.js", "gantt.js", "page.js")
#: Bytes of a number of a packed column, by its type.
_WIDTHS: Final = {"B": 1, "H": 2, "I": 4}


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """What the page says beside the cells."""

    #: Words by which this program is called.
    program: Sequence[str]
    #: ISO-8601 in UTC.
    written_at: str
    tariff: Tariff
    #: Seconds after which a browser loads the page again; 0: it does not.
    reload_seconds: int = 0


def tariff_of_run(settings: Settings, run: RunRecord) -> Tariff:
    """The prices of where the run was. Raises InvalidConfig for a file of prices that cannot be read."""
    return tariff_of(replace(settings, backend=replace(settings.backend, name=run.backend)))


def page_of_run(source: RunSource, details: Sequence[CellDetail], options: PageOptions) -> Iterator[str]:
    """The HTML of a run in pieces, to be joined: what needs no script first, then the packed cells a step at a time."""
    run, scale = source.run, TimeScale.of(step.cells for step in source.steps.values())
    pipeline = run.pipeline_name or run.pipeline
    yield from _begin(f"{pipeline or 'run'} {run.run_id}", options)
    yield from _sections(source, details, options, scale)
    yield from _data(source, details, options, scale, run_id=run.run_id, pipeline=pipeline)
    yield _end()


def page_of_store(source: StoreSource, details: Sequence[CellDetail], options: PageOptions) -> Iterator[str]:
    """The HTML of a store: all cells of a pipeline as they stand, what failed, and the runs."""
    yield from _begin(f"{source.pipeline}, all runs", options)
    yield store_head(source, options.written_at, options.reload_seconds)
    yield "<main>"
    yield from _cells(source, details, options, "", source.reference, {})
    yield runs_section(source.runs, MOST_RUNS)
    yield "</main>"
    yield from _data(source, details, options, TimeScale.of(()), run_id="", pipeline=source.pipeline)
    yield _end()


@cache
def content_policy() -> str:
    """The content security policy of a page: its own script and style, and no request."""
    script, style = _digest(_script()), _digest(asset("report.css"))
    return f"default-src 'none'; script-src '{script}'; style-src '{style}'; img-src data:"


def _begin(title: str, options: PageOptions) -> Iterator[str]:
    reload = f'<meta http-equiv="refresh" content="{options.reload_seconds}">' if options.reload_seconds else ""
    yield (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{content_policy()}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{reload}'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)}</title>\n<style>{asset('report.css')}</style></head>\n<body>\n"
    )


def _end() -> str:
    return f"<script>{_script()}</script>\n</body></html>\n"


@cache
def _script() -> str:
    return "".join(map(asset, SCRIPTS))


@cache
def asset(name: str) -> str:
    """The text of a file beside this module: style, a part of the script, or what the script fills."""
    return files("batch_pipeline.report.page").joinpath(name).read_text(encoding="utf-8")


def _sections(
    source: RunSource, details: Sequence[CellDetail], options: PageOptions, scale: TimeScale
) -> Iterator[str]:
    costs = run_costs(source, options.tariff)
    yield head(source, costs, options.written_at, options.reload_seconds)
    yield "<main>"
    run = source.run
    yield from _cells(source, details, options, run.run_id, run.reference, run.images)
    yield driver_section(source, options.program)
    curves = [step_curve(step.cells, scale) for step in source.steps.values()]
    picture = curves_svg(curves, scale)
    begin = datetime.fromtimestamp(scale.begin_ms / 1000, UTC)
    note = (
        f"From {begin:%Y-%m-%d %H:%M:%S} UTC, when the first cell began. Cells that run are filled, those that are"
        " queued are outlined, each step to its own scale."
    )
    yield section(
        "time",
        "Over time",
        f"<figure>{picture}</figure>" if picture else "",
        asset("gantt.html") if picture else "",
        note=note,
    )
    yield distributions_section(source, options.program)
    yield costs_section(costs)
    yield provenance_section(source)
    yield section("closer", "Look closer", commands_of(options.program, source.run))
    yield "</main>"


def _cells(
    source: CellSource,
    details: Sequence[CellDetail],
    options: PageOptions,
    run_id: str,
    reference: str,
    images: Mapping[str, str],
) -> Iterator[str]:
    """The map, what failed, the graph and the steps. `run_id` is empty for those of a store."""
    if any(step.states for step in source.steps.values()):
        yield asset("map.html")
    yield failures_section(root_causes_of(source, details), options.program, run_id)
    counts = state_counts(source)
    svg = graph_svg(source.graph, counts, reference=reference) if source.graph is not None else ""
    graph = f'<div class="graph">{svg}</div>' if svg else ""
    yield section("steps", "Steps", graph, steps_table(counts, source.why, images if run_id else None))


def _data(
    source: CellSource,
    details: Sequence[CellDetail],
    options: PageOptions,
    scale: TimeScale,
    *,
    run_id: str,
    pipeline: str,
) -> Iterator[str]:
    """The packed columns of each step, the names, and what stands for the numbers."""
    meta: dict[str, Any] = {
        "run": run_id,
        "pipeline": pipeline,
        "program": shlex.join(options.program),
        "samples": len(source.samples),
        "steps": [
            {"name": name, "gather": step.is_gather, "cells": len(step.states)} for name, step in source.steps.items()
        ],
        "columns": [[name, _WIDTHS[kind]] for name, kind in PACKED.items()],
        "states": [{"key": state.name.lower().replace("_", "-"), "words": state.value} for state in ShownState],
        "reasons": REASONS,
        "machines": source.machines,
        "begin_ms": scale.begin_ms,
        "end_ms": scale.end_ms,
        "tick_ms": scale.tick_ms,
        "details": [detail.to_json() for detail in details],
    }
    yield f'<script type="application/json" id="meta">{_json(meta)}</script>\n'
    yield f'<script type="text/plain" id="names">{packed_names(source.samples)}</script>\n'
    for number, step in enumerate(source.steps.values()):
        yield f'<script type="text/plain" id="step-{number}">{packed_step(step, scale)}</script>\n'


def _json(value: Any) -> str:
    """JSON that no tag can end."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _digest(content: str) -> str:
    return f"sha256-{b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
