"""The head of the page, its table of steps, and what a run took: sections made in Python, readable without a script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from batch_pipeline.records.record import RunRecord
from batch_pipeline.report.estimates import lasting, money
from batch_pipeline.report.page.costs import Amounts, RunCosts
from batch_pipeline.report.page.html import command, folded, pairs, section, sentence, table, text
from batch_pipeline.report.page.source import CellSource, RunSource
from batch_pipeline.report.page.states import ShownState
from batch_pipeline.report.run_pages import NO_IMAGE, code_of, page_of, state_of
from batch_pipeline.report.spending import hours_words
from batch_pipeline.report.tables import counted, first_few

_STATES = tuple(ShownState)
#: Sections of `runs show` that the page has under "Provenance"; the others it shows itself.
_PROVENANCE = ("Run", "Code", "Place", "Steps", "Jobs", "What happened")


def head(source: RunSource, costs: RunCosts, written_at: str, reload_seconds: int = 0) -> str:
    """Title, who and when, the figures that matter most, and notes on what is missing."""
    run = source.run
    who = run.identity or run.user
    about = filter(
        None,
        (
            f"by {who}" if who else "",
            f"on {run.host}" if run.host else "",
            f"began {moment_words(run.started_at)}",
            f"ended {moment_words(run.ended_at)}" if run.ended else f"as of {moment_words(written_at)}",
            reload_words(reload_seconds),
        ),
    )
    title = run.pipeline_name or run.pipeline or run.run_id
    lines = [
        '<header><p class="kind">batch_pipeline report</p>',
        f'<h1>{text(title)} <span class="badge {run.status}">{text(_word(source))}</span></h1>',
        f"<p>{text(run.description)}</p>" if run.description else "",
        f'<p class="about">{text(" · ".join(about))}<br><code>{text(run.run_id)}</code>'
        f"{f' · code <code>{text(code_of(run))}</code>' if run.commit else ''}</p>",
        f'<dl class="tiles">{"".join(_tiles(source, costs, written_at))}</dl>',
        *(f'<p class="warning">{sentence(note)}</p>' for note in _notes(source)),
        "</header>",
    ]
    return "\n".join(filter(None, lines))


def steps_table(
    counts: Mapping[str, Mapping[str, int]], why: Mapping[str, Mapping[str, int]], images: Mapping[str, str] | None
) -> str:
    """How the cells of each step stand, why a run sent them, and its images; without `images` the first alone."""
    used = [state for state in ShownState if any(state.value in of_step for of_step in counts.values())]
    shown = list(reversed(used))
    columns = ["step", *(state.value for state in shown)]
    rows: list[list[object]] = [
        [step, *(of_step.get(state.value, 0) for state in shown)] for step, of_step in counts.items()
    ]
    if images is not None:
        columns += ["why they ran", "image"]
        for row, step in zip(rows, counts, strict=True):
            row.append(", ".join(f"{cells:,} {words}" for words, cells in why.get(step, {}).items()))
            row.append(images.get(step) or NO_IMAGE)
    return table("steps", columns, rows)


def state_counts(source: CellSource) -> dict[str, dict[str, int]]:
    """Step -> state in words -> cells, the worst first."""
    counts: dict[str, dict[str, int]] = {}
    for name, step in source.steps.items():
        numbers = Counter(step.states)
        counts[name] = {
            state.value: numbers[number] for number, state in reversed(list(enumerate(_STATES))) if numbers[number]
        }
    return counts


def costs_section(costs: RunCosts) -> str:
    """vCPU-hours, and money where there are prices, by step, cause and sample; empty where nothing was measured."""
    if not costs.total.vcpu_hours:
        return ""
    has_prices = bool(costs.total.cost)

    def paid(amounts: Amounts) -> list[str]:
        return [money(amounts.cost, costs.currency)] if has_prices else []

    cost_column = ["cost"] if has_prices else []
    by_step = [
        [
            step,
            hours_words(of_step.used_vcpu_hours),
            hours_words(of_step.lost_vcpu_hours),
            hours_words(of_step.interrupted_vcpu_hours),
            hours_words(of_step.vcpu_hours),
            *paid(of_step),
        ]
        for step, of_step in costs.by_step.items()
    ]
    by_reason = [[reason, hours_words(one.vcpu_hours), *paid(one)] for reason, one in costs.by_reason.items()]
    by_sample = [[sample, hours_words(one.vcpu_hours), *paid(one)] for sample, one in costs.by_sample.items()]
    columns = ["step", "used", "lost to failures", "lost to interruptions", "vCPU-hours", *cost_column]
    return section(
        "costs",
        "What it took",
        table("costs-by-step", columns, by_step),
        table("costs-by-cause", ["cells that failed for", "vCPU-hours", *cost_column], by_reason),
        table("costs-by-sample", ["samples that took most", "vCPU-hours", *cost_column], by_sample),
        note=" ".join(_cost_notes(costs)),
    )


def _cost_notes(costs: RunCosts) -> Iterator[str]:
    yield "In vCPU-hours. Pulling images, idle machines, storage and transfer are not in it."
    if costs.unrecorded:
        yield f"Nor are {counted(costs.unrecorded, 'attempt')} that left no record."
    if costs.unpriced and costs.total.cost:
        yield f"No price is known of {first_few(costs.unpriced)}."


def provenance_section(source: RunSource) -> str:
    """What the run's record says, as `runs show` prints it, and the commands that lead further."""
    parts = []
    for part in page_of(source.run, source.sent, source.events, ()):
        if part.title in _PROVENANCE:
            key = part.title.lower().replace(" ", "-")
            inside = table(f"run-{key}", part.columns, part.rows) if part.columns else pairs(part.rows)
            parts.append(folded(part.title, inside))
    return section("provenance", "Provenance", *parts)


def commands_of(program: Sequence[str], run: RunRecord) -> str:
    """Command lines that look closer at the run."""
    words = " ".join(program)
    lines = [
        ("What the drivers decided", f"{words} logs --driver {run.run_id}"),
        ("All that is recorded", f"{words} runs show {run.run_id}"),
        ("Where a result comes from", f"{words} trace results/STEP/SAMPLE/FILE"),
        ("A copy with its provenance", f"{words} runs export {run.run_id} --to FOLDER"),
    ]
    items = "".join(f"<div><dt>{text(about)}</dt><dd>{command(line)}</dd></div>" for about, line in lines)
    return f'<dl class="pairs">{items}</dl>'


def _tiles(source: RunSource, costs: RunCosts, written_at: str) -> Iterator[str]:
    run = source.run
    cells: Counter[str] = Counter()
    for counts in state_counts(source).values():
        cells.update(counts)
    yield tile("samples", f"{run.samples:,}")
    yield tile("cells", f"{cells.total():,}" if cells else "–", cells_words(cells))
    yield tile("wall time", lasting(_wall_seconds(run, written_at)))
    total = costs.total
    if total.vcpu_hours:
        yield tile("vCPU-hours", hours_words(total.vcpu_hours))
        for name, lost in (("failures", total.lost_vcpu_hours), ("interruptions", total.interrupted_vcpu_hours)):
            if lost:
                yield tile(f"lost to {name}", f"{lost / total.vcpu_hours:.2%}", f"{hours_words(lost)} vCPU-hours")
    if total.cost:
        yield tile("cost", money(total.cost, costs.currency))


def cells_words(cells: Counter[str]) -> str:
    """Cells by state, the worst first: `2 failed, 7 done`."""
    shown = [(state.value, cells[state.value]) for state in reversed(_STATES) if cells[state.value]]
    return ", ".join(f"{count:,} {word}" for word, count in shown)


def reload_words(seconds: int) -> str:
    """That the page is loaded again; empty where it is not."""
    return f"loaded again every {lasting(seconds)}" if seconds else ""


def tile(name: str, value: str, below: str = "") -> str:
    """A figure that matters, with what it is of."""
    small = f"<small>{text(below)}</small>" if below else ""
    return f"<div><dt>{text(name)}</dt><dd>{text(value)}{small}</dd></div>"


def _notes(source: RunSource) -> list[str]:
    problem = [f"{source.run.problem}."] if source.run.problem else []
    return [*problem, *source.notes]


def _word(source: RunSource) -> str:
    """How the run ended, or whether it goes on; of one whose driver died jobs may still be live."""
    return state_of(source.run) if source.run.ended else "live" if source.is_live else "nothing live"


def moment_words(moment: str) -> str:
    """`2026-11-30 16:30:12 UTC`"""
    return f"{moment[:19].replace('T', ' ')} UTC" if moment else "at an unknown time"


def _wall_seconds(run: RunRecord, written_at: str) -> float:
    began, ended = (datetime.fromisoformat(moment) for moment in (run.started_at, run.ended_at or written_at))
    return max(0.0, (ended - began).total_seconds())
