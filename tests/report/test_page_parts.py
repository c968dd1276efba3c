"""Parts of a page that Python makes: curves, boxes, hours, and elements in which nothing is markup but their own."""

from __future__ import annotations

from array import array

import pytest

from batch_pipeline.backends.prices import Tariff
from batch_pipeline.records.cell_table import REASONS, CellColumns
from batch_pipeline.report.page.boxes import PERCENT, SIZE, TIME, Box, box_of, boxes_svg
from batch_pipeline.report.page.costs import Amounts, RunCosts, run_costs
from batch_pipeline.report.page.curves import BINS, curves_svg, step_curve
from batch_pipeline.report.page.html import command, pairs, section, sentence, table
from batch_pipeline.report.page.packing import TimeScale
from batch_pipeline.report.page.source import RunSource, ShownCells
from batch_pipeline.report.page.summary import costs_section
from tests.report.test_page_failures import run_with

HOUR = 3_600_000
BEGIN = 1_796_040_000_000


def cells(step: str, samples: int, **columns: list[int]) -> CellColumns:
    made = CellColumns.blank(step, tuple(f"S{number}" for number in range(samples)))
    for name, numbers in columns.items():
        made.columns[name][:] = array(made.columns[name].typecode, numbers)
    return made


def test_curves_count_what_runs_and_what_waits() -> None:
    step = cells(
        "call",
        3,
        started_ms=[BEGIN, BEGIN + HOUR // 2, 0],
        duration_ms=[HOUR, HOUR // 2, 0],
        queued_ms=[0, HOUR // 4, 0],
    )
    scale = TimeScale.of([step])
    curve = step_curve(step, scale)
    assert len(curve.running) == len(curve.waiting) == BINS
    assert (curve.running[0], curve.running[BINS - 1], max(curve.running)) == (1, 2, 2)
    assert (curve.waiting[BINS // 4 + 1], curve.waiting[BINS // 2 + 1], sum(curve.waiting)) == (1, 0, BINS // 4)
    picture = curves_svg([curve], scale)
    assert "call: at most 2 at once" in picture
    assert ">1 h</text>" in picture


def test_what_is_shorter_than_a_point_of_time_is_counted() -> None:
    step = cells("call", 2, started_ms=[BEGIN, BEGIN + HOUR], duration_ms=[1, 1])
    curve = step_curve(step, TimeScale.of([step]))
    assert (curve.running[0], curve.running[BINS - 1], sum(curve.running)) == (1, 1, 2)


def test_nothing_is_drawn_where_no_time_is_known() -> None:
    step = cells("call", 2)
    scale = TimeScale.of([step])
    assert curves_svg([step_curve(step, scale)], scale) == ""
    assert boxes_svg("Duration", [], TIME) == ""
    assert box_of("call", step.columns["duration_ms"]) is None


def test_a_box_has_the_quantiles_of_what_is_known() -> None:
    box = box_of("call", array("q", [0, *range(1, 101)]), {"asked": 120.0})
    assert box == Box(step="call", cells=100, quantiles=[1, 5, 25, 50, 75, 95, 100], marks={"asked": 120.0})
    picture = boxes_svg("Peak <memory>", [box], SIZE)
    assert "Peak &lt;memory&gt;" in picture
    assert "50 B, most 100 B" in picture
    assert "asked 120 B" in picture


def test_hours_that_were_all_lost_leave_none_that_were_used() -> None:
    amounts = Amounts(vcpu_hours=0.1 + 0.2, lost_vcpu_hours=0.3, interrupted_vcpu_hours=0.0)
    assert amounts.used_vcpu_hours == 0
    assert (amounts + Amounts(lost_vcpu_hours=1e-12)).used_vcpu_hours == 0


def test_amounts_too_small_to_write_are_set_right_with_the_others() -> None:
    html = table("hours", ["step", "vCPU-hours"], [["call", "under 0.001"], ["align", "1,250.5"]])
    assert html.count('<td class="n">') == 2
    assert '<th scope="col" class="n">vCPU-hours</th>' in html


def test_boxes_of_one_value_are_drawn() -> None:
    box = box_of("call", array("q", [7]))
    assert box is not None
    assert "nan" not in boxes_svg("Duration", [box], TIME)


@pytest.mark.parametrize(
    ("measure", "value", "words"),
    [
        (TIME, 250, "250 ms"),
        (TIME, 90_000, "2 min"),
        (SIZE, 1536, "1.5 KiB"),
        (PERCENT, 75.25, "75.2 %"),
        (PERCENT, 1210, "1,210 %"),
    ],
)
def test_values_are_written_with_their_units(measure: object, value: float, words: str) -> None:
    assert measure.words(value) == words  # type: ignore[attr-defined]


def costs_of(tariff: Tariff) -> RunCosts:
    _, source = run_with({})
    step = cells(
        "call",
        3,
        cpus=[2, 4, 1],
        memory_mb=[1024, 2048, 0],
        machine=[0, 1, 0],
        duration_ms=[HOUR, HOUR, 0],
        lost_ms=[HOUR // 2, 0, 0],
        interrupted_ms=[0, HOUR // 4, 0],
        reason=[0, REASONS.index("timeout"), 0],
        unrecorded=[0, 2, 0],
    )
    made = {"call": ShownCells(cells=step, states=bytearray(3))}
    machines = ("", "x9.12xlarge, spot, eu-west-1a")
    changed = {"steps": made, "samples": tuple(step.samples), "machines": machines}
    return run_costs(RunSource(**{**vars(source), **changed}), tariff)


def test_hours_and_money_are_told_by_step_sample_and_cause() -> None:
    costs = costs_of(Tariff(currency="USD", flat=(1.0, 0.5), assumed=(0.0, 0.0)))
    assert costs.by_step == {
        "call": Amounts(vcpu_hours=8.0, lost_vcpu_hours=5.0, interrupted_vcpu_hours=1.0, cost=1.5 * 2.5 + 1.25 * 5.0)
    }
    assert (costs.total.used_vcpu_hours, costs.unrecorded, costs.unpriced) == (2.0, 2, [])
    assert {sample: one.vcpu_hours for sample, one in costs.by_sample.items()} == {"S1": 5.0, "S0": 3.0}
    assert {reason: one.cost for reason, one in costs.by_reason.items()} == {"timeout": 6.25}
    assert "Nor are 2 attempts that left no record." in costs_section(costs)


def test_machines_without_a_price_are_named_and_not_guessed() -> None:
    costs = costs_of(Tariff(currency="USD", flat=None, assumed=(0.0, 0.0)))
    assert costs.total.cost == 0
    assert costs.total.vcpu_hours == 8.0
    assert any("x9.12xlarge" in machine for machine in costs.unpriced)
    assert "USD" not in costs_section(costs)


def test_values_are_escaped_wherever_they_stand() -> None:
    bad = "<b>\"'&"
    safe = "&lt;b&gt;&quot;&#x27;&amp;"
    for made in (table(bad, [bad], [[bad]], caption=bad), pairs([[bad, bad]]), command(bad), sentence(bad)):
        assert bad not in made
        assert safe in made


def test_a_sentence_has_code_between_backticks() -> None:
    assert sentence("Give `rightsize` a <try>.") == "Give <code>rightsize</code> a &lt;try&gt;."


def test_amounts_are_set_right_and_words_left() -> None:
    made = table("x", ["step", "cells", "share", "why"], [["call", 1200, "97.6 %", "3 never done"]])
    assert '<td class="n">1,200</td><td class="n">97.6 %</td><td>3 never done</td>' in made
    assert '<td class="n">under 0.001</td>' in table("x", ["step", "vCPU-hours"], [["a", "under 0.001"], ["b", ""]])


def test_sections_and_tables_without_anything_are_left_out() -> None:
    assert section("x", "X", table("x", ["a"], []), pairs([])) == ""
