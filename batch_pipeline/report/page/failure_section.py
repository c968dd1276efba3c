"""The failures of a run as a section: a card a root cause, with alike log tails, commands and the remedy."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from batch_pipeline.report.page.failures import RootCause
from batch_pipeline.report.page.html import command, folded, section, sentence, table, text
from batch_pipeline.report.tables import counted, first_few, spoken

#: Causes that have a card; the rest has a row in the table alone.
MOST_CARDS = 20
#: Groups of log tails of a cause that are shown, and samples that are named.
MOST_TAILS = 3
MOST_NAMES = 200


def failures_section(causes: Sequence[RootCause], program: Sequence[str], run_id: str) -> str:
    """Cards of the causes that hinder most cells, and a table of all; empty where nothing failed."""
    rows = [
        [
            cause.step,
            cause.reason.words,
            len(cause.samples),
            sum(cause.not_run.values()),
            cause.message,
            spoken(cause.samples[0]),
        ]
        for cause in causes
    ]
    left = len(causes) - MOST_CARDS
    return section(
        "failures",
        "Failures",
        *(_card(cause, program, run_id) for cause in causes[:MOST_CARDS]),
        f"<p>And {counted(left, 'other cause')}, in the table below.</p>" if left > 0 else "",
        table("failures", ["step", "why", "cells", "never ran for it", "message", "example"], rows),
        note="By root cause, the one that hinders most cells first.",
    )


def _card(cause: RootCause, program: Sequence[str], run_id: str) -> str:
    hindered = ", ".join(f"{count:,} of {step}" for step, count in cause.not_run.items())
    names = [spoken(sample) for sample in cause.samples]
    more = names[:MOST_NAMES]
    rest = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return "\n".join(
        (
            '<article class="cause">',
            f"<h3>{text(cause.step)}: {text(cause.reason.words)}"
            f' <span class="count">{text(counted(len(names), "cell"))}</span></h3>',
            f"<p>{text(cause.message)}</p>" if cause.message else "",
            f'<p class="note">Never ran for it: {text(hindered)}.</p>' if hindered else "",
            f"<p>{text(first_few(names))}</p>",
            folded("All samples", f'<p class="names">{text(", ".join(more) + rest)}</p>') if len(names) > 6 else "",
            *_tails(cause),
            f'<p class="remedy">{sentence(cause.remedy)}</p>' if cause.remedy else "",
            *_commands(cause, program, run_id),
            f'<button type="button" class="show" data-step="{text(cause.step)}"'
            f' data-reason="{text(cause.reason.value)}">Show in the map</button></article>',
        )
    )


def _tails(cause: RootCause) -> Iterator[str]:
    for number, group in enumerate(cause.tails[:MOST_TAILS]):
        others = len(group.samples) - 1
        alike = f", alike in {counted(others, 'other')}" if others else ""
        title = f"End of the log of {spoken(group.samples[0])}{alike}"
        opened = " open" if not number else ""
        yield f'<details{opened}><summary>{text(title)}</summary><pre tabindex="0">{text(group.tail)}</pre></details>'
    if len(cause.tails) > MOST_TAILS:
        yield f"<p>And {len(cause.tails) - MOST_TAILS:,} other ends of logs.</p>"


def _commands(cause: RootCause, program: Sequence[str], run_id: str) -> Iterator[str]:
    sample, step = cause.samples[0], cause.step
    yield '<p class="commands">'
    of_run = ["--run", run_id] if run_id else []
    yield command(shlex.join([*program, "logs", sample, step, *of_run]))
    if len(cause.samples) > 1:
        yield command(shlex.join([*program, "logs", "--step", step, "--failed", *of_run]))
    if program[0] == "python":  # The verbs without a pipeline's file know no `run`.
        yield command(shlex.join([*program, "run", "--failed"]))
    yield "</p>"
