"""Puts the page of a run together: one HTML file that needs no network, its data packed inside, nothing else allowed.

The content security policy of the page admits its own script and style by their digests and no request at all, so that
a sample's name or a log that looks like code is text and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any, Final

from batch_pipeline.backends.prices import Tariff
from batch_pipeline.records.cell_table import REASONS
from batch_pipeline.report.graph_svg import graph_svg
from batch_pipeline.report.page.costs import run_costs
from batch_pipeline.report.page.curves import curves_svg, step_curve
from batch_pipeline.report.page.details import CellDetail
from batch_pipeline.report.page.distributions import distributions_section
from batch_pipeline.report.page.failure_section import failures_section
from batch_pipeline.report.page.failures import root_causes_of
from batch_pipeline.report.page.html import section, text
from batch_pipeline.report.page.packing import PACKED, TimeScale, packed_names, packed_step
from batch_pipeline.report.page.source import RunSource
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
    """What the page says beside the run."""

    #: Words by which this program is called.
    program: Sequence[str]
    #: ISO-8601 in UTC.
    written_at: str
    tariff: Tariff


def page_of_run(source: RunSource, details: Sequence[CellDetail], options: PageOptions) -> Iterator[str]:
    """The HTML of a run in pieces, to be joined: what needs no script first, then the packed cells a step at a time."""
    style, script = asset("report.css"), "".join(map(asset, SCRIPTS))
    policy = f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data:"
    run = source.run
    title = f"{run.pipeline_name or run.pipeline or 'run'} {run.run_id}"
    yield (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)}</title>\n<style>{style}</style></head>\n<body>\n"
    )
    scale = TimeScale.of(step.cells for step in source.steps.values())
    yield from _sections(source, details, options, scale)
    yield from _data(source, details, options, scale)
    yield f"<script>{script}</script>\n</body></html>\n"


@cache
def asset(name: str) -> str:
    """The text of a file beside this module: style, a part of the script, or what the script fills."""
    return files("batch_pipeline.report.page").joinpath(name).read_text(encoding="utf-8")


def _sections(
    source: RunSource, details: Sequence[CellDetail], options: PageOptions, scale: TimeScale
) -> Iterator[str]:
    costs = run_costs(source, options.tariff)
    yield head(source, costs, options.written_at)
    yield "<main>"
    if any(step.states for step in source.steps.values()):
        yield asset("map.html")
    yield failures_section(root_causes_of(source, details), options.program, source.run.run_id)
    yield section("steps", "Steps", _graph(source), steps_table(source))
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


def _graph(source: RunSource) -> str:
    if source.graph is None:
        return ""
    svg = graph_svg(source.graph, state_counts(source), reference=source.run.reference)
    return f'<div class="graph">{svg}</div>'


def _data(source: RunSource, details: Sequence[CellDetail], options: PageOptions, scale: TimeScale) -> Iterator[str]:
    """The packed columns of each step, the names, and what stands for the numbers."""
    meta: dict[str, Any] = {
        "run": source.run.run_id,
        "pipeline": source.run.pipeline_name or source.run.pipeline,
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
