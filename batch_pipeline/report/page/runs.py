"""Runs as tables: the head of a store's page with all of its runs, and the runs that a driver's job began."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence

from batch_pipeline.records.record import RunRecord
from batch_pipeline.records.spent import Spent
from batch_pipeline.report.page.html import command, folded, section, sentence, table, text
from batch_pipeline.report.page.source import RunSource, StoreSource
from batch_pipeline.report.page.summary import cells_words, moment_words, reload_words, state_counts, tile
from batch_pipeline.report.run_pages import code_of, state_of
from batch_pipeline.report.spending import cost_words, hours_words, took_words
from batch_pipeline.report.tables import counted

_COLUMNS = ("run", "pipeline", "began (UTC)", "wall time", "vCPU-hours", "cost", "by", "code", "samples", "state")


def store_head(source: StoreSource, written_at: str, reload_seconds: int = 0) -> str:
    """Title, the store, how its cells stand, and what its runs took together."""
    about = filter(None, (source.url, f"as of {moment_words(written_at)}", reload_words(reload_seconds)))
    badge = '<span class="badge live">live</span>' if source.is_live else ""
    lines = [
        '<header><p class="kind">batch_pipeline report of a store</p>',
        f"<h1>{text(source.pipeline)} {badge}</h1>",
        f'<p class="about">{text(" · ".join(about))}</p>',
        f'<dl class="tiles">{"".join(_tiles(source))}</dl>',
        *(f'<p class="warning">{sentence(note)}</p>' for note in source.notes),
        "</header>",
    ]
    return "\n".join(lines)


def runs_section(runs: Sequence[RunRecord], most: int) -> str:
    """A row a run, newest first; `most` of them were read."""
    note = f"The newest {most:,}; `runs` lists all." if len(runs) >= most else ""
    return section("runs", "Runs", table("runs", _COLUMNS, map(_row, runs)), note=note)


def driver_section(source: RunSource, program: Sequence[str]) -> str:
    """What the job of a driver printed at last, and the runs that it began; empty for another run."""
    log = f'<pre tabindex="0">{text(source.driver_log)}</pre>' if source.driver_log else ""
    lines = [command(shlex.join([*program, "report", run.run_id])) for run in source.begun]
    commands = f'<p class="commands">{"".join(lines)}</p>' if lines else ""
    begun = table("begun", _COLUMNS, map(_row, source.begun), caption="Runs that it began")
    return section("driver", "Driver", begun, commands, folded("The end of its log", log))


def _tiles(source: StoreSource) -> Iterator[str]:
    cells: Counter[str] = Counter()
    for counts in state_counts(source).values():
        cells.update(counts)
    yield tile("samples", f"{len(source.samples):,}")
    yield tile("cells", f"{cells.total():,}" if cells else "–", cells_words(cells))
    yield tile("runs", f"{len(source.runs):,}", f"{sum(not run.ended for run in source.runs):,} live")
    spent = [Spent.from_json(run.spent) for run in source.runs]
    if hours := sum(one.vcpu_hours for one in spent):
        lost = sum(one.lost_vcpu_hours + one.interrupted_vcpu_hours for one in spent)
        yield tile("vCPU-hours", hours_words(hours), f"{lost / hours:.2%} lost" if lost else "")
    for currency in dict.fromkeys(one.currency for one in spent if one.cost):
        of_currency = [one for one in spent if one.cost and one.currency == currency]
        total = sum(one.cost for one in of_currency)
        unpriced = counted(sum(bool(one.unpriced) for one in of_currency), "run")
        yield tile(
            "cost",
            cost_words(Spent(cost=total, currency=currency)),
            f"in part unknown of {unpriced}" if any(one.unpriced for one in of_currency) else "",
        )


def _row(run: RunRecord) -> list[object]:
    spent = Spent.from_json(run.spent)
    return [
        run.run_id,
        run.pipeline_name or run.pipeline or run.kind,
        run.started_at[:19].replace("T", " "),
        took_words([run]),
        hours_words(spent.vcpu_hours) if run.spent else "",
        cost_words(spent),
        run.user,
        code_of(run),
        run.samples,
        state_of(run),
    ]
