"""Follows jobs until they end: one DescribeJobs a 100 jobs a poll, children listed only when a count changed.

What a backend says is a hint. It drives the bars; what is done is told by receipts alone, in `run.verdict`. That it
leaves a job out of one answer means nothing: only a job that is left out again and again, and that is not found by its
name either, is forgotten.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from batch_pipeline.backends.base import JobObserver, JobState, JobSummary
from batch_pipeline.config import WatchSettings
from batch_pipeline.pipeline.plan import CellState, LiveJob, Plan
from batch_pipeline.records.events import Listener, StepProgress
from batch_pipeline.records.submissions import Submission
from batch_pipeline.run.diagnosis import diagnose
from batch_pipeline.run.interrupts import pause
from batch_pipeline.run.live import LiveRun, queued
from batch_pipeline.run.queue_place import queue_place
from batch_pipeline.wire.contract import EndReason

#: Seconds between two polls at the least.
SHORTEST = 0.05
#: How soon the embedded Batch is asked why a job waits: it knows at once, and answers for nothing.
EMBEDDED_DWELL = 5.0
#: Between two questions where jobs stand in their queue.
PLACE_SECONDS = 60.0
#: After so many answers in a row that leave a job out it is looked up by its name.
OMISSIONS = 3

_WAITING = (JobState.SUBMITTED, JobState.PENDING, JobState.RUNNABLE)
_RUNNING = (JobState.STARTING, JobState.RUNNING)
_LEFT_OUT = (CellState.BLOCKED, CellState.DEFERRED, CellState.SKIPPED)


class Watch:
    """The jobs that one driver follows, and how far they are.

    `already` says how many cells of a job were done when the plan was made: a job adopted half-way. `later` says how
    many cells of a step wait for a later wave (`add`). `diagnose` says in a sentence
    why a job has been waiting for `dwell_seconds` while nothing of its queue ran; empty: nothing to say. `place` says
    where the first of such jobs stands in its queue, and is asked once in `PLACE_SECONDS`.
    """

    def __init__(
        self,
        plan: Plan,
        backend: JobObserver,
        submissions: Sequence[Submission],
        *,
        already: Mapping[str, int] | None = None,
        later: Mapping[str, int] | None = None,
        poll_seconds: float = 5.0,
        dwell_seconds: float = 0.0,
        diagnose: Callable[[Submission], str] | None = None,
        place: Callable[[str, Collection[str]], str] | None = None,
        sleep: Callable[[float], None] = pause,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._plan = plan
        #: Once and not at every poll: a million cells take a third of a second.
        self._planned = {step: plan.counts(step) for step in plan.states}
        self._backend = backend
        self._jobs = [submission for submission in submissions if not submission.join]
        self._already = dict(already or {})
        self._later = later or {}
        self._longest = poll_seconds
        dwell_seconds = min(dwell_seconds, EMBEDDED_DWELL) if backend.name == "embedded" else dwell_seconds
        self._dwell = dwell_seconds if diagnose is not None else 0.0
        self._diagnose, self._place = diagnose, place
        #: Job -> since when it could run and nothing of its queue did.
        self._idle_since: dict[str, float] = {}
        self._reported: set[tuple[str, str]] = set()
        #: Queue -> when its place was asked for last, or since when its jobs wait.
        self._placed: dict[str, float] = {}
        self._omitted: Counter[str] = Counter()
        self._by_id = {job.native_id: job for job in self._jobs}
        self._sleep, self._clock = sleep, clock
        self._reasons: dict[str, Counter[EndReason]] = {}
        self._began: float | None = None
        #: What listeners were told last.
        self._progressed: Mapping[str, StepProgress] = {}
        #: The last word on each job.
        self.summaries: dict[str, JobSummary] = {}

    def add(self, submissions: Sequence[Submission], *, later: Mapping[str, int]) -> None:
        """Follows the jobs of a further wave too; `later`: cells by step of the waves behind it."""
        self._jobs += [submission for submission in submissions if not submission.join]
        self._by_id = {job.native_id: job for job in self._jobs}
        self._later = later

    def until_over(self, listener: Listener, *, most_children: int = 0) -> Mapping[str, StepProgress]:
        """Polls until no job will change any more, telling the listener of every change. Returns the last progress.

        Returns as soon as no more than `most_children` of them have not ended, by the counts that polling tells anyway.
        """
        self._began = self._clock() if self._began is None else self._began
        while True:
            progress = self.poll()
            if progress != self._progressed:
                listener.progressed(progress)
                self._progressed = progress
            for step, sentence in (*self._stuck(), *self._places()):
                listener.stuck(step, sentence)
            if all(summary.state.final for summary in self.summaries.values()):
                return progress
            if 0 < sum(summary.unended for summary in self.summaries.values()) <= most_children:
                return progress
            self._sleep(self._pause(progress, self._clock() - self._began))

    def poll(self) -> Mapping[str, StepProgress]:
        """Asks once. Jobs that had ended are not asked for again."""
        live = [job.native_id for job in self._jobs if not self._is_final(job.native_id)]
        if live:
            for native_id, summary in self._backend.summaries(live).items():
                if summary.state is not JobState.UNKNOWN or self._is_forgotten(native_id):
                    self._omitted.pop(native_id, None)
                    self._note(native_id, summary)
        return {step: self._progress(step) for step in self._plan.states}

    def idle_jobs(self) -> list[Submission]:
        """Jobs that could run, by the last look, while nothing of their queue does."""
        busy = {self._by_id[i].queue for i, summary in self.summaries.items() if any(map(summary.counts.get, _RUNNING))}
        ready = [self._by_id[i] for i, summary in self.summaries.items() if summary.counts.get(JobState.RUNNABLE)]
        return [job for job in ready if job.queue not in busy]

    def unended(self) -> Counter[str]:
        """Step -> cells that have not ended, by the last look."""
        cells: Counter[str] = Counter()
        for native_id, summary in self.summaries.items():
            cells[self._by_id[native_id].step] += summary.unended
        return cells

    def has_ended(self, run_id: str) -> bool:
        """Whether none of a run's jobs will change any more, by the last look."""
        return all(self._is_final(job.native_id) for job in self._jobs if job.run_id == run_id)

    def _is_final(self, native_id: str) -> bool:
        summary = self.summaries.get(native_id)
        return summary is not None and summary.state.final

    def _is_forgotten(self, native_id: str) -> bool:
        """Whether a job that an answer left out is gone for good; until then the last word on it stands."""
        job = self._by_id[native_id]
        self.summaries.setdefault(native_id, queued(job))
        self._omitted[native_id] += 1
        return not self._omitted[native_id] % OMISSIONS and self._backend.find(job.native_name, job.queue) is None

    def _stuck(self) -> Iterator[tuple[str, str]]:
        """Step and sentence of jobs that have waited too long, each pair once."""
        if not self._dwell:
            return
        now, idle = self._clock(), self.idle_jobs()
        for native_id in self.summaries:
            job = self._by_id[native_id]
            if job not in idle:
                self._idle_since.pop(native_id, None)
            elif now - self._idle_since.setdefault(native_id, now) >= self._dwell and self._diagnose is not None:
                # Asked again only when as much time has gone by.
                self._idle_since[native_id] = now
                sentence = self._diagnose(job)
                if sentence and (job.step, sentence) not in self._reported:
                    self._reported.add((job.step, sentence))
                    yield job.step, sentence

    def _places(self) -> Iterator[tuple[str, str]]:
        """Step and place of the first job of each queue where jobs wait and none runs, when it is new."""
        if self._place is None:
            return
        now = self._clock()
        idle: dict[str, list[Submission]] = {}
        for job in self.idle_jobs():
            idle.setdefault(job.queue, []).append(job)
        self._placed = {queue: self._placed.get(queue, now) for queue in idle}
        for queue, jobs in idle.items():
            if now - self._placed[queue] >= PLACE_SECONDS:
                self._placed[queue] = now
                sentence = self._place(queue, [job.native_id for job in jobs])
                if sentence and (jobs[0].step, sentence) not in self._reported:
                    self._reported.add((jobs[0].step, sentence))
                    yield jobs[0].step, sentence

    def _note(self, native_id: str, summary: JobSummary) -> None:
        before = self.summaries.get(native_id)
        self.summaries[native_id] = summary
        failed = summary.counts.get(JobState.FAILED, 0)
        if failed and (before is None or failed != before.counts.get(JobState.FAILED, 0)):
            children = self._backend.children(native_id, [JobState.FAILED])
            self._reasons[native_id] = Counter(child.end_reason or EndReason.LOST for child in children)

    def _progress(self, step: str) -> StepProgress:
        counts = self._planned[step]
        done = running = again = 0
        waiting = self._later.get(step, 0)
        failed: Counter[EndReason] = Counter()
        for job in self._jobs:
            summary = self.summaries.get(job.native_id)
            if job.step != step or summary is None:
                continue
            here = summary.counts
            done += here.get(JobState.SUCCEEDED, 0)
            # Done cells of a live job are that job's: as it counts them, or because it is forced to make them again.
            again += self._already.get(job.native_id, 0)
            running += sum(here.get(state, 0) for state in _RUNNING)
            waiting += sum(here.get(state, 0) for state in _WAITING)
            failed += self._failures(job.native_id, summary)
        return StepProgress(
            step=step,
            done_before=counts[CellState.DONE] - again,
            done=done,
            running=running,
            waiting=waiting,
            failed=dict(failed),
            left_out=sum(counts[state] for state in _LEFT_OUT),
            excluded=counts[CellState.EXCLUDED],
        )

    def _failures(self, native_id: str, summary: JobSummary) -> Counter[EndReason]:
        if summary.state is JobState.UNKNOWN:
            return Counter({EndReason.LOST: summary.size})
        known = self._reasons.get(native_id, Counter())
        # The summary may be ahead of the listing of children; what is not explained yet is not hidden.
        rest = summary.counts.get(JobState.FAILED, 0) - known.total()
        return known + Counter({EndReason.LOST: rest} if rest > 0 else {})

    def _pause(self, progress: Mapping[str, StepProgress], elapsed: float) -> float:
        """A quarter of the time that is left at this pace: long in the middle, short towards the end.

        The pace of the first cells, which wait for everything to start, promises too little: no pause is longer than an
        eighth of the time that has gone by, so that no run is seen to end an eighth late.
        """
        moving = sum(step.running + step.waiting for step in progress.values())
        ended = sum(step.done + step.failures for step in progress.values())
        left = elapsed * moving / ended if ended else elapsed
        return min(self._longest, max(SHORTEST, min(left / 4, elapsed / 8)))


def watching(
    plan: Plan,
    backend: JobObserver,
    jobs: Sequence[Submission],
    *,
    live: Sequence[LiveJob],
    runs: Sequence[LiveRun],
    settings: WatchSettings,
    later: Mapping[str, int] | None = None,
    sleep: Callable[[float], None] = pause,
    clock: Callable[[], float] = time.monotonic,
) -> Watch:
    """The watch over jobs as the settings want it; `live` and `runs` are what was live when the plan was made."""
    return Watch(
        plan,
        backend,
        jobs,
        already=already_done(plan, live, runs),
        later=later,
        poll_seconds=settings.poll_seconds,
        dwell_seconds=settings.dwell_seconds,
        diagnose=lambda job: diagnose(backend, job),
        place=lambda queue, native_ids: queue_place(backend, queue, native_ids),
        sleep=sleep,
        clock=clock,
    )


def already_done(plan: Plan, live: Sequence[LiveJob], runs: Sequence[LiveRun]) -> dict[str, int]:
    """Job of a live run -> its cells that were done when the plan was made."""
    # Success comes after the receipt.
    counts = {
        item.native_id: run.summaries[item.native_id].counts.get(JobState.SUCCEEDED, 0)
        for run in runs
        if not run.over
        for item in run.submissions
        if not item.join
    }
    for job in live:
        if job.step not in plan.states:
            continue
        states, positions = plan.states[job.step], plan.rows[job.step].positions
        here = [positions.get(name, -1) for name in job.samples]
        counts[job.native_id] = sum(i >= 0 and states[i] is CellState.DONE for i in here)
    return counts
