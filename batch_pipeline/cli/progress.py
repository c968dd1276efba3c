"""Progress of a run: bars on a terminal, plain lines elsewhere. Both go to stderr.

A plain line is printed when a step's line changed, at most one round every few seconds, and always for the last word:
a log of a run of hours stays readable.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TextIO

from batch_pipeline.records.events import NullListener, Outcome, RetrySummary, StepProgress
from batch_pipeline.report.estimates import lasting
from batch_pipeline.report.tables import counted, plan_notes, plan_rows, with_cells
from batch_pipeline.report.time_left import TimeLeft

if TYPE_CHECKING:
    from batch_pipeline.pipeline.plan import Plan

#: Seconds between two rounds of plain lines at the least.
PAUSE_SECONDS: Final = 5.0


class _Lines:
    """The counts of steps in words, with the time that each still takes once there is evidence."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._evidence: dict[str, TimeLeft] = {}
        self._left: dict[str, str] = {}

    def add(self, progress: Mapping[str, StepProgress]) -> None:
        """Takes the newest counts."""
        now = self._clock()
        for name, step in progress.items():
            seconds = self._evidence.setdefault(name, TimeLeft()).seconds(step, now)
            self._left[name] = "" if seconds is None else f", about {lasting(max(seconds, 1.0))} left"

    def of(self, reached: StepProgress) -> str:
        """`7/9 done, 2 running, about 4 min left`."""
        return reached.line + self._left.get(reached.step, "")


class PlainProgress(NullListener):
    """Lines without any control codes."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._shown: dict[str, str] = {}
        self._latest: Mapping[str, StepProgress] = {}
        self._when = float("-inf")
        self._lines = _Lines(clock)

    def planned(self, plan: Plan) -> None:
        """See `Listener.planned`."""
        for note in plan_notes(plan):
            self._say(note)

    def run_began(self, run_id: str, folder: str) -> None:
        """See `Listener.run_began`."""
        self._say(f"Run {run_id}: {folder}")

    def submitted(self, run_id: str, step: str, job: str, native_id: str, size: int) -> None:
        """See `Listener.submitted`."""
        self._say(f"Submitted {job}: {counted(size, 'cell')} of {step} ({native_id})")

    def progressed(self, progress: Mapping[str, StepProgress]) -> None:
        """See `Listener.progressed`."""
        if not self._shown and all(step.over for step in progress.values()):
            return  # Nothing moves, and nothing did: what there is to say is said at the end.
        self._latest = progress
        self._lines.add(progress)
        if self._clock() - self._when >= PAUSE_SECONDS:
            self._tell()

    def stuck(self, step: str, sentence: str) -> None:
        """See `Listener.stuck`."""
        self._say(f"{step} waits: {sentence}")

    def again(self, lines: Sequence[RetrySummary]) -> None:
        """See `Listener.again`."""
        for line in lines:
            self._say(line.line)

    def ended(self, outcome: Outcome) -> None:
        """See `Listener.ended`."""
        if self._shown or outcome.run_ids:
            self._latest = outcome.progress
            self._lines.add(outcome.progress)
            self._tell()

    def _tell(self) -> None:
        lines = {name: step.line for name, step in with_cells(self._latest).items()}
        changed = {name: line for name, line in lines.items() if self._shown.get(name) != line}
        for name in changed:
            self._say(f"{name}: {self._lines.of(self._latest[name])}")
        if changed:
            self._shown |= changed
            self._when = self._clock()

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class BarProgress(NullListener):
    """One bar a step, redrawn in place."""

    def __init__(self, progress: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress = progress
        self._bars: dict[str, Any] = {}
        self._lines = _Lines(clock)

    def run_began(self, run_id: str, folder: str) -> None:
        """See `Listener.run_began`."""
        self._say(f"Run {run_id}: {folder}")

    def planned(self, plan: Plan) -> None:
        """See `Listener.planned`."""
        if plan.jobs:
            for row in plan_rows(plan):
                if row.total:
                    self._bar(row.step)
        for note in plan_notes(plan):
            self._say(note)

    def progressed(self, progress: Mapping[str, StepProgress]) -> None:
        """See `Listener.progressed`."""
        self._lines.add(progress)
        for name, step in with_cells(progress).items():
            ended = step.done_before + step.done + step.failures + step.left_out
            line = self._lines.of(step)
            self._progress.update(self._bar(name), total=step.total, completed=ended, line=line)

    def stuck(self, step: str, sentence: str) -> None:
        """See `Listener.stuck`."""
        self._say(f"{step} waits: {sentence}")

    def again(self, lines: Sequence[RetrySummary]) -> None:
        """See `Listener.again`."""
        for line in lines:
            self._say(line.line)

    def ended(self, outcome: Outcome) -> None:
        """See `Listener.ended`."""
        if self._bars:
            self.progressed(outcome.progress)

    def _say(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False)

    def _bar(self, step: str) -> Any:
        if step not in self._bars:
            self._bars[step] = self._progress.add_task(step, total=None, line="")
        return self._bars[step]


class _Deferred(BarProgress):
    """Begins to draw at the first thing to show: a command with nothing to do never imports rich."""

    def __init__(self) -> None:
        super().__init__(None)

    def planned(self, plan: Plan) -> None:
        """See `Listener.planned`."""
        if plan.jobs:
            self.begin()
            super().planned(plan)

    def run_began(self, run_id: str, folder: str) -> None:
        """See `Listener.run_began`."""
        self.begin()
        super().run_began(run_id, folder)

    def progressed(self, progress: Mapping[str, StepProgress]) -> None:
        """See `Listener.progressed`."""
        if self._progress is not None or not all(step.over for step in progress.values()):
            self.begin()
            super().progressed(progress)

    def begin(self) -> None:
        """Draws from now on."""
        if self._progress is None:
            self._progress = _bars()
            self._progress.start()

    def end(self) -> None:
        """Leaves the last state of the bars on the screen and gives the terminal back."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
            self._bars = {}


def _bars() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[line]}", markup=False),
        console=Console(file=sys.stderr),
    )


@contextmanager
def listening(*, plain: bool | None = None) -> Iterator[NullListener]:
    """A listener for the time of the block; the terminal is given back whatever happens in it."""
    if plain if plain is not None else not sys.stderr.isatty():
        yield PlainProgress()
        return
    bars = _Deferred()
    try:
        yield bars
    finally:
        bars.end()
