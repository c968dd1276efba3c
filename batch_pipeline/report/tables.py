"""Turns plans, progress and failures into rows and sentences: pure functions, for the command line and for pages.

Nothing here knows how wide a screen is or what a colour is. Long lists are cut by the caller through `first_few`, so
that a hundred thousand samples give a message of one screen.

(A little longer than most modules: half of it is the shapes of the rows, beside the functions that fill them.)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from batch_pipeline.pipeline.plan import AS_DEFINED, CellState, Plan, PlannedJob, RetryOverrides, Why
from batch_pipeline.pipeline.waves import children_by_wave
from batch_pipeline.records.events import FailedCell, Outcome, Removed, StepProgress
from batch_pipeline.wire.contract import EndReason
from batch_pipeline.wire.layout import COHORT

#: Samples or sentences that a message names before it says "and 12 more".
FEW: Final = 5
#: Kinds of failures that are told one by one.
MOST_KINDS: Final = 20
_NUMBER: Final = re.compile(r"[\d,.]*\d")


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One step of a plan. Counts are cells."""

    step: str
    to_run: int
    #: Why they run, most frequent first.
    reasons: tuple[tuple[Why, int], ...]
    done: int
    #: A job of an earlier run is to do them.
    live: int
    #: They wait for such jobs.
    deferred: int
    blocked: int
    #: Missing, but not chosen.
    skipped: int
    #: The step's condition is false for them; they are not in `total`.
    excluded: int

    @property
    def total(self) -> int:
        """All cells of the step that no condition excludes."""
        return self.to_run + self.done + self.live + self.deferred + self.blocked + self.skipped

    @property
    def why(self) -> str:
        """The reasons in words: `7 never done, 2 forced`; without the number when there is but one."""
        if len(self.reasons) == 1:
            return self.reasons[0][0].value
        return ", ".join(f"{count} {reason.value}" for reason, count in self.reasons)


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """One SubmitJob call of a plan."""

    job: str
    step: str
    size: int
    #: `each child after its twin in picard-0-0`.
    after: tuple[str, ...]
    #: With which wave of the plan it is sent, from 0.
    wave: int = 0

    @property
    def starts(self) -> str:
        """When it may start, in words."""
        return "; ".join(self.after) or (f"with wave {self.wave + 1}" if self.wave else "at once")


@dataclass(frozen=True, kw_only=True)
class StatusRow:
    """Where one step stands. Counts are cells."""

    step: str
    cells: int
    done: int
    running: int
    waiting: int
    #: Missing, and failed when last tried; those that somebody cancelled aside.
    failed: int
    cancelled: int
    #: The step's condition is false for them; they are not in `cells`.
    excluded: int
    #: Missing, and never tried since the change that made them so.
    to_run: int
    cannot_run: int
    #: Why they failed and why they are to run.
    words: str


@dataclass(frozen=True, kw_only=True)
class FailureGroup:
    """Cells of one step that ended for one reason and say the same of it."""

    step: str
    reason: EndReason
    samples: tuple[str, ...]
    #: What the first of them left as its sentence.
    message: str


@dataclass(frozen=True, kw_only=True)
class BlockedGroup:
    """Cells of one step that cannot run."""

    step: str
    #: (sample, sentence)
    cells: tuple[tuple[str, str], ...]


def plan_rows(plan: Plan) -> list[PlanRow]:
    """One row a step, in the order of the pipeline."""
    return [_plan_row(plan, step) for step in plan.graph.names]


def _plan_row(plan: Plan, step: str) -> PlanRow:
    counts = plan.counts(step)
    reasons = Counter(
        why for why, state in zip(plan.why[step], plan.states[step], strict=True) if why and state is CellState.TO_RUN
    )
    return PlanRow(
        step=step,
        to_run=counts[CellState.TO_RUN],
        reasons=tuple(reasons.most_common()),
        done=counts[CellState.DONE],
        live=counts[CellState.LIVE],
        deferred=counts[CellState.DEFERRED],
        blocked=counts[CellState.BLOCKED],
        skipped=counts[CellState.SKIPPED],
        excluded=counts[CellState.EXCLUDED],
    )


def plan_notes(plan: Plan) -> Iterator[str]:
    """Sentences on results that are not what their receipts say, on cells that are not done after this, on waves."""
    problems = list(plan.problems.items())
    for (step, sample), problem in problems[:FEW]:
        yield f"{step} of {spoken(sample)}: {problem}."
    if len(problems) > FEW:
        yield f"{len(problems) - FEW:,} more cells whose results are not what their receipts say."
    if undone := _undone_line(plan):
        yield undone
    if plan.form:
        yield plan.form
    children = children_by_wave(plan)
    if len(children) > 1:
        yield (
            f"{counted(sum(children), 'cell')} in {len(children):,} waves: at most {plan.limits.max_live_children:,}"
            " children are on the queue at once (backend.max_children), and a wave is sent as soon as there is room."
        )


def unsent_line(outcome: Outcome) -> str:
    """The sentence on cells of later waves that a command leaves; empty where there are none."""
    if not outcome.unsent:
        return ""
    if outcome.detached:
        return (
            f"{counted(outcome.unsent, 'cell')} of later waves are not queued: they need a driver that waits for room."
            " Give the command again, without --detach or with --driver batch."
        )
    return f"{counted(outcome.unsent, 'cell')} of later waves were not sent."


def _undone_line(plan: Plan) -> str:
    cells = sorted(plan.no_longer_done(), key=lambda cell: plan.graph.names.index(cell[0]))
    if not cells:
        return ""
    steps = Counter(step for step, _ in cells)
    counts_by_step = first_few([f"{count:,} of {step}" for step, count in steps.items()])
    were, are, read = ("was", "is", "it reads") if len(cells) == 1 else ("were", "are", "they read")
    return (
        f"{counted(len(cells), 'cell')} that {were} not chosen {are} not done after this, for what {read} is made"
        f" again: {counts_by_step}. The command without the choice makes what is missing then."
    )


def group_rows(plan: Plan) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the groups that samples are put into by what their cells ask for, the smallest first.

    Of each group how many samples it has, and the MiB and time limit of its cells of each step whose resources are
    computed; a gather has a row of its own. No rows where no step's are computed.
    """
    steps = [node.name for node in plan.graph if node.by_evidence]
    sent: dict[int | str, dict[str, RetryOverrides]] = {}
    for job in plan.jobs:
        if job.step in steps and not job.join:
            for member in job.members or (job.step,):
                sent.setdefault(member, {})[job.step] = job.overrides
    counts = Counter(
        (isinstance(member, int), tuple(overrides.get(step, AS_DEFINED) for step in steps))
        for member, overrides in sent.items()
    )
    groups = sorted(counts.items(), key=lambda group: [one.memory_mb or 0 for one in group[0][1]])
    rows = [
        [f"{count:,}" if is_sample else "gather", *map(_resource_words, numbers)]
        for (is_sample, numbers), count in groups
    ]
    return ["samples", *steps], rows


def _resource_words(overrides: RetryOverrides) -> str:
    words = [f"{overrides.memory_mb:,} MiB"] if overrides.memory_mb else []
    words += [f"{overrides.timeout_seconds:,} s"] if overrides.timeout_seconds else []
    return ", ".join(words) or "-"


def job_rows(plan: Plan) -> list[JobRow]:
    """One row a job, in the order of submission."""
    return [JobRow(job=job.name, step=job.step, size=job.size, after=_after(job), wave=job.wave) for job in plan.jobs]


def _after(job: PlannedJob) -> tuple[str, ...]:
    return tuple(
        f"{'each child after its twin in' if edge.index_by_index else 'after all of'} "
        f"{'live job ' if edge.live else ''}{edge.job}"
        for edge in job.after
    )


def status_rows(plan: Plan, progress: Mapping[str, StepProgress], failed: Sequence[FailedCell]) -> list[StatusRow]:
    """One row a step, in the order of the pipeline."""
    tried = {(cell.step, cell.sample) for cell in failed}
    return [_status_row(plan, step, tried) for step in progress.values()]


def _status_row(plan: Plan, counts: StepProgress, tried: set[tuple[str, str]]) -> StatusRow:
    cells = [(sample, state) for sample, state in plan.cells(counts.step) if (counts.step, sample) not in tried]
    states = Counter(state for _, state in cells)
    cancelled = counts.failed.get(EndReason.CANCELLED, 0)
    words = [f"{count} {reason.words}" for reason, count in counts.failed.items() if reason is not EndReason.CANCELLED]
    if states[CellState.TO_RUN]:
        words.append(_plan_row(plan, counts.step).why)
    return StatusRow(
        step=counts.step,
        cells=len(plan.states[counts.step]) - states[CellState.EXCLUDED],
        done=counts.done_before + counts.done,
        running=counts.running,
        waiting=counts.waiting,
        failed=counts.failures - cancelled,
        cancelled=cancelled,
        excluded=states[CellState.EXCLUDED],
        to_run=states[CellState.TO_RUN] + states[CellState.DEFERRED],
        cannot_run=states[CellState.BLOCKED],
        words=", ".join(words),
    )


def blocked_groups(blocked: Mapping[tuple[str, str], str] | Sequence[tuple[str, str, str]]) -> list[BlockedGroup]:
    """The blocked cells a step, in the order in which the plan met them."""
    triples = (
        ((*cell, sentence) for cell, sentence in blocked.items()) if isinstance(blocked, Mapping) else iter(blocked)
    )
    groups: dict[str, list[tuple[str, str]]] = {}
    for step, sample, sentence in triples:
        groups.setdefault(step, []).append((sample, sentence))
    return [BlockedGroup(step=step, cells=tuple(cells)) for step, cells in groups.items()]


def blocked_lines(blocked: Mapping[tuple[str, str], str] | Sequence[tuple[str, str, str]]) -> list[str]:
    """The sentences about blocked cells, the first few a step; those that differ by sample alone are told once."""
    lines: list[str] = []
    for group in blocked_groups(blocked):
        sentences_by_kind: dict[str, list[tuple[str, str]]] = {}
        for sample, sentence in group.cells:
            sentences_by_kind.setdefault(_kind(sample, sentence), []).append((spoken(sample), sentence))
        kinds = list(sentences_by_kind.values())
        lines += [f"{group.step}: {first_few([sample for sample, _ in cells])}: {cells[0][1]}" for cells in kinds[:FEW]]
        if len(kinds) > FEW:
            lines.append(f"{group.step}: and {sum(map(len, kinds[FEW:])):,} more.")
    return lines


def failure_groups(failed: Iterable[FailedCell]) -> list[FailureGroup]:
    """Failed cells by (step, reason, kind of message), those that never ran left out: `root_causes` tells of them."""
    groups: dict[tuple[str, EndReason, str], list[FailedCell]] = {}
    for cell in failed:
        if cell.reason is not EndReason.DEPENDENCY:
            groups.setdefault((cell.step, cell.reason, _kind(cell.sample, cell.message)), []).append(cell)
    return [
        FailureGroup(step=step, reason=reason, samples=tuple(cell.sample for cell in cells), message=cells[0].message)
        for (step, reason, _), cells in groups.items()
    ]


def _kind(sample: str, sentence: str) -> str:
    """The sentence without what differs between samples of which the same is said: their names, and numbers."""
    return _NUMBER.sub("#", sentence.replace(sample, "@"))


def root_causes(failed: Sequence[FailedCell]) -> list[str]:
    """One sentence a step that has failures, with what never ran told by its root cause.

    `pizzly: 41 not run: 38 because picard failed (35 out of memory, 3 disk full), 3 own (3 timeout)`
    """
    cells = {(cell.step, cell.sample): cell for cell in failed}
    by_step: dict[str, list[FailedCell]] = {}
    for cell in failed:
        by_step.setdefault(cell.step, []).append(cell)
    return [f"{step}: {_causes_of(members, cells)}" for step, members in by_step.items()]


def _causes_of(members: Sequence[FailedCell], cells: Mapping[tuple[str, str], FailedCell]) -> str:
    own: Counter[EndReason] = Counter(cell.reason for cell in members if cell.reason is not EndReason.DEPENDENCY)
    cancelled = [f"{own.pop(EndReason.CANCELLED)} cancelled"] if EndReason.CANCELLED in own else []
    roots: dict[str, Counter[EndReason]] = {}
    for cell in members:
        if cell.reason is EndReason.DEPENDENCY:
            step, reason = _root(cell, cells)
            roots.setdefault(step, Counter())[reason] += 1
    if not roots:
        return ", ".join([*([f"{own.total()} failed: {_reasons(own)}"] if own else []), *cancelled])
    ordered = sorted(roots.items(), key=lambda item: -item[1].total())
    parts = [f"{reasons.total()} because {_blamed(step, reasons)}" for step, reasons in ordered]
    if own:
        parts.append(f"{own.total()} own ({_reasons(own)})")
    return f"{len(members)} not run: {', '.join([*parts, *cancelled])}"


def _blamed(step: str, reasons: Counter[EndReason]) -> str:
    """`picard failed (35 out of memory)`, `picard was cancelled`."""
    name = step or "something that it needs"
    if set(reasons) == {EndReason.CANCELLED}:
        return f"{name} was cancelled"
    # Of a cause among other samples only the step is known here.
    return f"{name} failed" + (f" ({_reasons(reasons)})" if EndReason.DEPENDENCY not in reasons else "")


def _root(cell: FailedCell, cells: Mapping[tuple[str, str], FailedCell]) -> tuple[str, EndReason]:
    """Step and reason at the end of the chain of "because"."""
    seen = {cell.step}
    while cell.reason is EndReason.DEPENDENCY and cell.because_of and cell.because_of not in seen:
        seen.add(cell.because_of)
        above = cells.get((cell.because_of, cell.sample))
        if above is None:
            return cell.because_of, _common(cell.because_of, cells)
        cell = above
    return (cell.step, cell.reason) if cell.reason is not EndReason.DEPENDENCY else (cell.because_of, cell.reason)


def _common(step: str, cells: Mapping[tuple[str, str], FailedCell]) -> EndReason:
    """Why a gather's samples are missing, when somebody cancelled them all; else each has its own reason."""
    reasons = {cell.reason for cell in cells.values() if cell.step == step}
    return EndReason.CANCELLED if reasons == {EndReason.CANCELLED} else EndReason.DEPENDENCY


def _reasons(counts: Counter[EndReason]) -> str:
    return ", ".join(f"{count} {reason.words}" for reason, count in counts.most_common())


def nothing_to_do(progress: Mapping[str, StepProgress]) -> str:
    """`Nothing to do: 27 of 27 cells are done.`"""
    steps = with_cells(progress).values()
    done = sum(step.done_before + step.done for step in steps)
    return all_done(done, sum(step.total for step in steps), sum(step.excluded for step in steps))


def with_cells(progress: Mapping[str, StepProgress]) -> dict[str, StepProgress]:
    """The steps but for those that their conditions exclude for all samples."""
    return {name: step for name, step in progress.items() if step.total}


def all_done(done: int, total: int, excluded: int) -> str:
    """The sentence on cells of which all are done, but for those that conditions exclude."""
    also = f", {excluded:,} {'is' if excluded == 1 else 'are'} excluded" if excluded else ""
    return f"Nothing to do: {done:,} of {total:,} cells are done{also}."


def first_few(names: Sequence[str]) -> str:
    """`A, B, C, D, E and 12 more`."""
    if len(names) <= FEW + 1:
        return ", ".join(names)
    return f"{', '.join(names[:FEW])} and {len(names) - FEW:,} more"


def spoken(sample: str) -> str:
    """A sample's name for people; a gather's cell is the whole cohort's."""
    return "the cohort" if sample == COHORT else sample


def removed_line(removed: Removed) -> str:
    """What went of temporary outputs; empty: nothing."""
    files = counted(removed.files, "temporary file")
    return f"Removed {files} after use, {removed.size_bytes:,} bytes." if removed.files else ""


def counted(number: int, word: str) -> str:
    """`1 job`, `3 jobs`."""
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
