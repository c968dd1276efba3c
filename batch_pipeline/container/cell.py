"""The life of a cell, in order: header and row, scratch, inputs, bundle, the step, its check, outputs, log, receipt.

A cell whose success receipt was retired, and that is found unchanged once its inputs are there, runs nothing (`keep`).

Whatever ends it, the log goes to the store, and a failure leaves its record beside the log. Only a cell that did all
of it leaves a receipt. Before the manifest is read there is no sample to keep a record for: the log alone tells.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

from batch_pipeline.container.code import Code, bundle_bytes
from batch_pipeline.container.disk import PRIVATE, local_error, put_by
from batch_pipeline.container.environment import CellLocation, read_location
from batch_pipeline.container.execution import Executed, run_class, run_script
from batch_pipeline.container.fetch import located, opened
from batch_pipeline.container.files import Files
from batch_pipeline.container.header import is_done, read_cell
from batch_pipeline.container.keep import is_unchanged, kept, metrics_read, standing_receipt
from batch_pipeline.container.loading import LoadedStep, load_step
from batch_pipeline.container.log import CellLog, log_of, say
from batch_pipeline.container.meter import Meter
from batch_pipeline.container.process_cache import ProcessCache
from batch_pipeline.container.publish import as_json, older_receipts, products_of, publish
from batch_pipeline.container.reference import stage_references
from batch_pipeline.container.run import Signals
from batch_pipeline.container.stage import Staged, Stager
from batch_pipeline.container.verdict import Verdict, verdict_of
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import EXECUTION, METADATA, ContainerExit, Variable
from batch_pipeline.wire.errors import BatchPipelineError, ContractBroken, DiskFull, InvalidOutput, StepInterrupted
from batch_pipeline.wire.job import Job
from batch_pipeline.wire.manifest import Manifest, Row
from batch_pipeline.wire.receipt import Failure, FileRecord, Receipt, Usage
from batch_pipeline.wire.scratch import remove_tree

#: Characters of the log that a failure's record repeats.
_TAIL_CHARACTERS = 2000
#: Bytes at the end of the log that are searched for the reason of a failure.
_SEARCHED_BYTES = 1 << 13


def run_cell(environment: Mapping[str, str], cache: ProcessCache, signals: Signals) -> int:
    """Runs the cell that the environment names and returns the exit code.

    Raises ContractBroken, StoreFailed, StepInterrupted when it ended before it knew which cell it is.
    """
    started_at = _now()
    location = read_location(environment)
    with signals.raising():
        files = opened(location.store, cache)
        manifest, row = read_cell(location, files, cache)
        if location.attempt > 1 and is_done(manifest, row, files):
            say(f"{manifest.step} of {row.sample} is done already: an earlier attempt left its receipt.")
            return ContainerExit.DONE
    with log_of(location.scratch_root) as log:
        attempt = Attempt(
            environment=environment,
            location=location,
            files=files,
            manifest=manifest,
            row=row,
            cache=cache,
            signals=signals,
            log=log,
            started_at=started_at,
        )
        try:
            return attempt.live()
        finally:
            cache.defer(attempt.clear)


def _load_sh() -> bool:
    """Pre-imports `sh`, if installed, so that forked children do not import it again."""
    try:
        import_module("sh")
    except ImportError:
        return False
    return True


def _spare(folder: str) -> str:
    return f"{folder}/spare"


@dataclass(kw_only=True, eq=False)
class Attempt:
    """One attempt at a cell: what it is given, and what it has found out so far."""

    environment: Mapping[str, str]
    location: CellLocation
    files: Files
    manifest: Manifest
    row: Row
    cache: ProcessCache
    signals: Signals
    log: CellLog
    started_at: str
    stager: Stager = field(init=False)
    staged: Staged = field(default_factory=Staged)
    verdict: Verdict = field(default_factory=Verdict)
    peak_memory_bytes: int = 0
    cpu_seconds: float = 0.0
    staged_out_bytes: int = 0
    meter: Meter = field(default_factory=lambda: Meter(""))
    #: This attempt's own folder in the process's; empty until that is made.
    scratch: str = ""

    @property
    def work(self) -> str:
        """The step's working directory."""
        return f"{self.scratch}/work"

    def live(self) -> int:
        """Does all of it, records how it ended and returns the exit code."""
        try:
            self._make_scratch()
            with self.signals.raising():
                job = self._stage()
                if self._is_kept():
                    return ContainerExit.DONE
                folder = self._bundle()
            self._execute(job, folder)
            if not self.verdict.exit_code:
                self._publish()
                return ContainerExit.DONE
        except (BatchPipelineError, OSError, MemoryError) as error:
            self._fail(verdict_of(error))
        try:
            # Whatever went wrong after a signal went wrong because of it.
            self.signals.check()
        except StepInterrupted as error:
            self._fail(verdict_of(error))
        self._record_failure()
        return int(self.verdict.exit_code)

    def _make_scratch(self) -> None:
        folder = self.cache.scratch(self.location.scratch_root)
        scratch = f"{folder}/{self.location.name}"
        try:
            try:
                # What the last cell of this process put by.
                os.rename(_spare(folder), scratch)
            except FileNotFoundError:
                os.mkdir(scratch, PRIVATE)
            self.scratch = scratch
            os.mkdir(self.work, PRIVATE)
        except OSError as error:
            raise local_error(scratch, error) from error

    def clear(self) -> None:
        """Removes the scratch folder, or puts the empty folders of its inputs by for the next cell of this process.

        The working directory always goes: what outlived the step must not write into another cell's.
        """
        if self.scratch and self.cache.lasts:
            remove_tree(self.work)
            if not put_by(self.scratch, _spare(os.path.dirname(self.scratch))):
                remove_tree(self.scratch)
        self.cache.release(self.location.scratch_root)

    def _stage(self) -> Job:
        manifest, row = self.manifest, self.row
        try:
            self.stager = Stager(manifest, row, self.files, self.cache, self.scratch)
            self.staged = self.stager.stage()
        except OSError as error:
            raise local_error(self.scratch, error) from error
        references = stage_references(manifest.references, self.files, self.location.cache_root)
        # Their bytes were compared with these when they came to this host.
        self.staged.records += [
            FileRecord(port=spec.port, key=spec.key, size_bytes=spec.size_bytes, etag=spec.etag)
            for spec in manifest.references
        ]
        return Job(
            sample=row.sample,
            step=manifest.step,
            work=Path(self.work),
            input_files=self.staged.input_files,
            gathered_files=self.staged.gathered_files,
            reference_files=references,
            output_names={
                spec.port: tuple(name.replace("{sample}", row.sample) for name in spec.files)
                for spec in manifest.outputs
            },
            upstream_metrics=self.staged.upstream_metrics,
            gathered_metrics=self.staged.gathered_metrics,
            missing_samples=manifest.missing,
            params=manifest.params,
            cpus=manifest.cpus,
            memory_mb=manifest.memory_mb,
            attempt=self.location.attempt,
            run_id=manifest.run_id,
            reference_name=manifest.reference,
        )

    def _is_kept(self) -> bool:
        """Whether the receipt that was retired was found to be true still, and is written again."""
        if self.row.retired is None or self.row.retired.must_run:
            return False
        receipt = standing_receipt(self.manifest, self.row, self.files)
        if receipt is None or not is_unchanged(receipt, self.manifest, self.staged, self.files):
            return False
        manifest, row, attempt = self.manifest, self.row, self.location.attempt
        older = older_receipts(manifest, row, attempt, self.files)
        say(f"{manifest.step} of {row.sample} is kept: what it reads and what run {receipt.run_id} made are unchanged.")
        self._write_log()
        self.files.delete([key for key in older if key != layout.receipt(manifest.step, row.sample, row.fingerprint)])
        self._vouch(kept(receipt, self.staged, run_id=manifest.run_id, attempt=attempt, at=_now()))
        return True

    def _bundle(self) -> str:
        """The folder with the step's code."""
        sha256 = self.manifest.bundle_sha256
        told = self.environment.get(Variable.FILE_SHA256, sha256)
        if not sha256 or told != sha256:
            raise ContractBroken(
                f"The manifest names the bundle {sha256 or '(none)'}, the environment {told or '(none)'}. Submit again."
            )
        url = self.environment.get(Variable.FILE_URL, "")
        files, key = located(url, self.cache) if url else (self.files, layout.bundle(sha256))
        folder = f"{os.path.dirname(self.scratch)}/code/{sha256}"
        code = self.cache.keep(f"code {folder}", lambda: Code(folder))
        return code.unpacked(partial(bundle_bytes, files, key, sha256, self.location.cache_root))

    def _execute(self, job: Job, folder: str) -> None:
        """Runs the step and its check; `verdict` tells how that ended. Raises StepInterrupted, InvalidOutput, …"""
        manifest = self.manifest
        self.meter = self.signals.meter = Meter(self.scratch)
        run_itself = not manifest.script
        if not run_itself:
            script = f"{folder}/{manifest.script}"
            lists = f"{self.scratch}/lists"
            self._note(run_script(script, job, lists, self.environment, self.signals))
        if not self.verdict.exit_code and manifest.entry:
            loaded = self._loaded(folder)
            if run_itself or loaded.checks:
                self._note(run_class(loaded, job, self.environment, self.signals, run=run_itself))
        self.signals.check()
        try:
            for link in self.staged.links:
                link.verify()
        except InvalidOutput:
            self.stager.retire_untrue()
            raise

    def _loaded(self, folder: str) -> LoadedStep:
        entry = self.manifest.entry
        with self.signals.raising():
            if self.cache.lasts:
                self.cache.keep("sh", _load_sh)
            return self.cache.keep(f"step {folder} {entry}", lambda: load_step(Path(folder), entry))

    def _note(self, executed: Executed) -> None:
        ended = executed.ended
        self.meter.look()
        self.peak_memory_bytes = max(self.peak_memory_bytes, ended.peak_memory_bytes, self.meter.peak_memory_bytes)
        self.cpu_seconds = round(self.cpu_seconds + ended.cpu_seconds, 3)
        self.verdict = executed.verdict

    def _fail(self, verdict: Verdict) -> None:
        """Ends the attempt with this verdict; what the step noted stays."""
        self.verdict = replace(verdict, metrics=self.verdict.metrics, versions=self.verdict.versions)

    def _publish(self) -> None:
        """Publishes the outputs, then the log, then the receipt."""
        manifest, row = self.manifest, self.row
        products = products_of(manifest, row, self.work)
        before = standing_receipt(manifest, row, self.files) if row.retired else None
        older = older_receipts(manifest, row, self.location.attempt, self.files)
        outputs = tuple(publish(products, older, before, self.files, self.signals))
        self.staged_out_bytes = sum(record.size_bytes for record in outputs)
        self._write_log()
        self._vouch(Receipt(outputs=outputs, metrics_read=metrics_read(self.staged), **self._facts()))

    def _vouch(self, receipt: Receipt) -> None:
        """Leaves the receipt, now or when what it names is on the disk."""
        key = layout.receipt(receipt.step, receipt.sample, receipt.fingerprint)
        seal = self.files.write_last(key, as_json(receipt), [record.key for record in receipt.outputs])
        if seal and not self.cache.hand_over(seal):
            self.files.seal(seal)

    def _write_log(self) -> None:
        key = layout.log(self.manifest.run_id, self.manifest.step, self.row.sample, self.location.attempt)
        self.files.write(key, self.log.tail(), synced=False)

    def _record_failure(self) -> None:
        """Leaves the log and the record of the failure; what cannot be left is said to the log."""
        manifest, row = self.manifest, self.row
        self.verdict = self.verdict.explained(
            self.log.tail(_SEARCHED_BYTES),
            oom_killed=self.meter.oom_killed,
            peak_bytes=self.peak_memory_bytes,
            memory_mb=manifest.memory_mb,
        )
        say(f"{manifest.step} of {row.sample} failed: {self.verdict.message}")
        if self.verdict.exit_code == DiskFull.exit_code:
            # The store may be on the very disk that is full.
            remove_tree(self.scratch)
        failure = Failure(
            end_reason=self.verdict.reason.value,
            exit_code=int(self.verdict.exit_code),
            message=self.verdict.message,
            log_tail=self.log.tail(4 * _TAIL_CHARACTERS).decode(errors="replace")[-_TAIL_CHARACTERS:],
            **self._facts(),
        )
        key = layout.failure(manifest.run_id, manifest.step, row.sample, self.location.attempt)
        for leave in (self._write_log, lambda: self.files.write(key, as_json(failure))):
            try:
                leave()
            except BatchPipelineError as error:
                say(error.message)

    def _facts(self) -> dict[str, Any]:
        """What receipts and failures have in common."""
        return {
            "run_id": self.manifest.run_id,
            "step": self.manifest.step,
            "sample": self.row.sample,
            "fingerprint": self.row.fingerprint,
            "attempt": self.location.attempt,
            "queued_at": self.manifest.queued_at,
            "started_at": self.started_at,
            "stopped_at": _now(),
            "inputs": tuple(self.staged.records),
            "usage": Usage(
                peak_memory_bytes=self.peak_memory_bytes,
                cpu_seconds=self.cpu_seconds,
                peak_disk_bytes=self.meter.peak_disk_bytes,
                staged_in_bytes=self.staged.size_bytes,
                staged_out_bytes=self.staged_out_bytes,
            ),
            "cpus": self.manifest.cpus,
            "memory_mb": self.manifest.memory_mb,
            **self._machine(),
            "metrics": self.verdict.metrics,
            "versions": self.verdict.versions,
            "host": self.location.host,
            "native_id": self.location.native_id,
        }

    def _machine(self) -> dict[str, str]:
        """On what it ran; nothing is asked or imported where ECS has not started this process."""
        if METADATA not in self.environment and EXECUTION not in self.environment:
            return {}
        from batch_pipeline.container.machine import machine_of

        return asdict(self.cache.keep("machine", lambda: machine_of(self.environment)))


def _now() -> str:
    """ISO-8601 UTC with milliseconds."""
    milliseconds = time.time_ns() // 1_000_000
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    """Small cells begin and end within one."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
