"""The life of a cell, in order: header and row, scratch, inputs, bundle, the step, its check, outputs, log, receipt.

A cell whose success receipt was retired, and that proves unchanged once its inputs are there, runs nothing (`keep`).

Whatever ends it, the log goes to the store, and a failure leaves its record beside the log. Only a cell that did all
of it leaves a receipt. Before the manifest is read there is no sample to keep a record for: the log alone tells.

More than 300 lines: `CellAttempt.run` is that order, and each method below it is one of its acts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Set
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch_pipeline.container.code import Code, bundle_bytes
from batch_pipeline.container.disk import local_error
from batch_pipeline.container.environment import CellLocation, read_location
from batch_pipeline.container.execution import Executed, run_class, run_script
from batch_pipeline.container.fetch import located, opened
from batch_pipeline.container.files import Files
from batch_pipeline.container.header import is_done, read_cell
from batch_pipeline.container.keep import is_unchanged, kept, metrics_read, standing_receipt
from batch_pipeline.container.loading import LoadedStep, load_step
from batch_pipeline.container.log import CellLog, log_of, say, timestamp
from batch_pipeline.container.logger import Logger, log_run
from batch_pipeline.container.meter import Meter
from batch_pipeline.container.process_cache import ProcessCache
from batch_pipeline.container.progress import Progress, facts_of
from batch_pipeline.container.publish import as_json, older_receipts, products_of, publish
from batch_pipeline.container.reference import stage_references
from batch_pipeline.container.run import Signals
from batch_pipeline.container.stage import Staged, Stager
from batch_pipeline.container.verdict import Verdict, verdict_of
from batch_pipeline.container.workspace import Workspace
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import DIRECTORY, MANY, ContainerExit, Variable
from batch_pipeline.wire.errors import BatchPipelineError, ContractBroken, DiskFull, InvalidOutput, StepInterrupted
from batch_pipeline.wire.job import Job
from batch_pipeline.wire.manifest import Manifest, Row
from batch_pipeline.wire.plain_text import one_line
from batch_pipeline.wire.receipt import Failure, FileRecord, Receipt

if TYPE_CHECKING:
    from batch_pipeline.container.log_excerpt import LogExcerpt

LOGGER = Logger(__name__)
#: Characters of the log that a failure's record repeats.
_TAIL_CHARACTERS = 2000
#: Bytes at the end of the log that are searched for the reason of a failure.
_SEARCHED_BYTES = 1 << 13


def run_cell(environment: Mapping[str, str], cache: ProcessCache, signals: Signals) -> int:
    """Runs the cell that the environment names and returns the exit code.

    Raises ContractBroken, StoreFailed, StepInterrupted when it ended before it knew which cell it is.
    """
    started_at = timestamp()
    location = read_location(environment)
    with signals.raising():
        files = opened(location.store, cache)
        manifest, row = read_cell(location, files, cache)
        log_run(manifest.run_id)
        if location.attempt > 1 and is_done(manifest, row, files):
            LOGGER.info(f"{manifest.step} of {row.sample} is done already: an earlier attempt left its receipt.")
            return ContainerExit.DONE
    workspace = Workspace(location.scratch_root, location.name, cache)
    with log_of(location.scratch_root, _excerpt(location, manifest, row, files)) as log:
        signals.on_first = log.print_rest
        attempt = CellAttempt(
            environment=environment,
            location=location,
            files=files,
            manifest=manifest,
            row=row,
            cache=cache,
            signals=signals,
            log=log,
            workspace=workspace,
            started_at=started_at,
        )
        try:
            return attempt.run()
        finally:
            cache.defer(workspace.clear)


def _excerpt(location: CellLocation, manifest: Manifest, row: Row, files: Files) -> LogExcerpt | None:
    """What chooses of the log what is printed; None: all of it is."""
    if not manifest.log_excerpt:
        return None
    from batch_pipeline.container.log_excerpt import LogExcerpt

    return LogExcerpt(files.url_of(layout.log(manifest.run_id, manifest.step, row.sample, location.attempt)))


def _load_sh() -> bool:
    """Pre-imports `sh`, if installed, so that forked children do not import it again."""
    try:
        import_module("sh")
    except ImportError:
        return False
    return True


# Without comparison and text: each method that is generated costs every start of a container.
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CellAttempt:
    """One attempt at a cell: what it is given. What it has done is a `Progress`, which `run` alone carries on."""

    environment: Mapping[str, str]
    location: CellLocation
    files: Files
    manifest: Manifest
    row: Row
    cache: ProcessCache
    signals: Signals
    log: CellLog
    workspace: Workspace
    started_at: str

    def run(self) -> int:
        """Does all of it, records how it ended and returns the exit code."""
        progress = Progress()
        self._log_manifest()
        try:
            self.workspace.make()
            with self.signals.raising():
                stager = Stager(self.manifest, self.row, self.files, self.cache, self.workspace.path)
                progress = replace(progress, staged=self._staged(stager))
                references = stage_references(self.manifest.references, self.files, self.location.cache_root)
                progress = replace(progress, staged=progress.staged.with_references(self.manifest.references))
                if self._is_kept(progress.staged):
                    return ContainerExit.DONE
                folder = self._bundle()
            progress = replace(progress, meter=Meter(self.workspace.path))
            self.signals.meter = progress.meter
            for executed in self._executed(self._job(progress.staged, references), folder):
                progress.meter.look()
                progress = progress.after(executed)
            self._verify(stager, progress.staged)
            verdict = progress.executed.verdict
            if not verdict.exit_code:
                progress = replace(progress, outputs=self._published())
                self._succeed(progress)
                return ContainerExit.DONE
        except (BatchPipelineError, OSError, MemoryError) as error:
            verdict = verdict_of(error)
        try:
            # Whatever went wrong after a signal went wrong because of it.
            self.signals.check()
        except StepInterrupted as error:
            verdict = verdict_of(error)
        return self._fail(progress, verdict)

    def _log_manifest(self) -> None:
        LOGGER.info(
            "read manifest",
            step=self.manifest.step,
            sample=self.row.sample,
            attempt=self.location.attempt,
            native_id=self.location.native_id,
            host=self.location.host,
        )

    def _staged(self, stager: Stager) -> Staged:
        try:
            return stager.stage()
        except OSError as error:
            raise local_error(self.workspace.path, error) from error

    def _job(self, staged: Staged, references: Mapping[str, tuple[Path, ...]]) -> Job:
        manifest, row = self.manifest, self.row
        outputs = [
            (spec.port, spec.form, tuple(name.replace("{sample}", row.sample) for name in spec.files))
            for spec in manifest.outputs
        ]
        for folder in (names[0] for _, form, names in outputs if form == DIRECTORY):
            os.makedirs(f"{self.workspace.work}/{folder}", exist_ok=True)
        return Job(
            sample=row.part_of or row.sample,
            part=row.part,
            step=manifest.step,
            work=Path(self.workspace.work),
            input_files=staged.input_files,
            gathered_files=staged.gathered_files,
            input_folders=staged.input_folders,
            gathered_folders=staged.gathered_folders,
            reference_files=references,
            output_names={port: names for port, form, names in outputs if form != MANY},
            output_patterns={port: names for port, form, names in outputs if form == MANY},
            upstream_metrics=staged.upstream_metrics,
            gathered_metrics=staged.gathered_metrics,
            missing_samples=manifest.missing,
            excluded_samples=manifest.excluded,
            params=manifest.params,
            columns=row.columns,
            gathered_columns={
                sample: dict(zip((name for name, _ in manifest.columns), values, strict=True))
                for sample, values in manifest.gathered_columns.items()
            },
            cpus=manifest.cpus,
            memory_mb=manifest.memory_mb,
            attempt=self.location.attempt,
            run_id=manifest.run_id,
            reference_name=manifest.reference,
        )

    def _is_kept(self, staged: Staged) -> bool:
        """Whether the receipt that was retired proved to be true still, and is written again."""
        if self.row.retired is None or self.row.retired.must_run:
            return False
        receipt = standing_receipt(self.manifest, self.row, self.files)
        if receipt is None or not is_unchanged(receipt, self.manifest, staged, self.files):
            return False
        manifest, row, attempt = self.manifest, self.row, self.location.attempt
        older = older_receipts(manifest, row, attempt, self.files)
        made = f"what it reads and what run {receipt.run_id} made are unchanged."
        LOGGER.info(f"{manifest.step} of {row.sample} is kept: {made}")
        self._write_log()
        self.files.delete([key for key in older if key != layout.receipt(manifest.step, row.sample, row.fingerprint)])
        self._vouch(kept(receipt, staged, run_id=manifest.run_id, attempt=attempt, at=timestamp()))
        return True

    def _bundle(self) -> str:
        """The folder with the step's code."""
        sha256 = self.manifest.bundle_sha256
        expected = self.environment.get(Variable.FILE_SHA256, sha256)
        if not sha256 or expected != sha256:
            raise ContractBroken(
                f"The manifest names the bundle {sha256 or '(none)'}, the environment {expected or '(none)'}. Submit"
                " again."
            )
        url = self.environment.get(Variable.FILE_URL, "")
        files, key = located(url, self.cache) if url else (self.files, layout.bundle(sha256))
        folder = f"{self.workspace.code}/{sha256}"
        code = self.cache.keep(f"code {folder}", lambda: Code(folder))
        return code.unpacked(partial(bundle_bytes, files, key, sha256, self.location.cache_root))

    def _executed(self, job: Job, folder: str) -> Iterator[Executed]:
        """Runs the step's processes up to the first that fails: its script, its class if that runs or checks.

        Raises StepInterrupted, ContractBroken, OSError.
        """
        script = self.manifest.script
        if script:
            lists = f"{self.workspace.path}/lists"
            listed = [spec.port for spec in self.manifest.inputs if spec.form]
            path = f"{folder}/{script}"
            executed = run_script(path, job, lists, self.environment, self.signals, listed=listed)
            yield executed
            if executed.verdict.exit_code:
                return
        if self.manifest.entry:
            loaded = self._loaded(folder)
            if not script or loaded.checks:
                yield run_class(loaded, job, self.environment, self.signals, run=not script)

    def _loaded(self, folder: str) -> LoadedStep:
        entry = self.manifest.entry
        with self.signals.raising():
            if self.cache.lasts:
                self.cache.keep("sh", _load_sh)
            return self.cache.keep(f"step {folder} {entry}", lambda: load_step(Path(folder), entry))

    def _verify(self, stager: Stager, staged: Staged) -> None:
        """Raises StepInterrupted when a signal came, InvalidOutput when the step changed an input."""
        self.signals.check()
        try:
            for link in staged.links:
                link.verify()
        except InvalidOutput:
            stager.retire_untrue()
            raise

    def _published(self) -> tuple[FileRecord, ...]:
        """Publishes the outputs; returns what the receipt is to say of them."""
        manifest, row = self.manifest, self.row
        products = products_of(manifest, row, self.workspace.work)
        before = standing_receipt(manifest, row, self.files) if row.retired else None
        older = older_receipts(manifest, row, self.location.attempt, self.files)
        stored = self._leftovers() if any(spec.form for spec in manifest.outputs) else frozenset[str]()
        began = time.perf_counter()
        records = tuple(publish(products, older, before, self.files, self.signals, stored=stored))
        size_bytes, seconds = sum(record.size_bytes for record in records), round(time.perf_counter() - began, 3)
        LOGGER.info("published outputs", files=len(records), size_bytes=size_bytes, seconds=seconds)
        return records

    def _leftovers(self) -> Set[str]:
        from batch_pipeline.container.listed_ports import leftovers

        return leftovers(self.manifest, self.row, self.files)

    def _succeed(self, progress: Progress) -> None:
        """Leaves the log, then the receipt."""
        usage = progress.usage
        LOGGER.info("succeeded", peak_memory_bytes=usage.peak_memory_bytes, cpu_seconds=usage.cpu_seconds)
        self._write_log()
        facts = self._facts(progress)
        self._vouch(Receipt(outputs=progress.outputs, metrics_read=metrics_read(progress.staged), **facts))

    def _vouch(self, receipt: Receipt) -> None:
        """Leaves the receipt, now or when what it names is on the disk."""
        key = layout.receipt(receipt.step, receipt.sample, receipt.fingerprint)
        seal = self.files.write_last(key, as_json(receipt), [record.key for record in receipt.outputs])
        if seal and not self.cache.hand_over(seal):
            self.files.seal(seal)
        LOGGER.info("wrote receipt", key=key)

    def _write_log(self) -> None:
        key = layout.log(self.manifest.run_id, self.manifest.step, self.row.sample, self.location.attempt)
        self.files.write(key, self.log.tail(), synced=False)

    def _fail(self, progress: Progress, verdict: Verdict) -> int:
        """Leaves the log and the record of the failure, and returns its exit code; what cannot be left is logged."""
        manifest, row = self.manifest, self.row
        verdict = verdict.explained(
            self.log.tail(_SEARCHED_BYTES),
            oom_killed=progress.meter.oom_killed,
            peak_bytes=progress.peak_memory_bytes,
            memory_mb=manifest.memory_mb,
        )
        if self.workspace.path:
            # What failed alike reads alike, and nobody can look into a folder that is removed.
            verdict = replace(verdict, message=verdict.message.replace(f"{self.workspace.path}/", ""))
        # The messages of all failed cells of a run are read together.
        verdict = replace(verdict, message=one_line(verdict.message))
        LOGGER.error("failed", end_reason=verdict.reason, exit_code=int(verdict.exit_code))
        say(f"{manifest.step} of {row.sample} failed: {verdict.message}")
        if verdict.exit_code == DiskFull.exit_code:
            # The store may be on the very disk that is full.
            self.workspace.empty()
        failure = Failure(
            end_reason=verdict.reason.value,
            exit_code=int(verdict.exit_code),
            message=verdict.message,
            log_tail=self.log.tail(4 * _TAIL_CHARACTERS).decode(errors="replace")[-_TAIL_CHARACTERS:],
            **self._facts(progress),
        )
        key = layout.failure(manifest.run_id, manifest.step, row.sample, self.location.attempt)
        for leave in (self._write_log, lambda: self.files.write(key, as_json(failure))):
            try:
                leave()
            except BatchPipelineError as error:
                say(error.message)
        return int(verdict.exit_code)

    def _facts(self, progress: Progress) -> dict[str, Any]:
        """What receipts and failures have in common."""
        return facts_of(
            progress,
            self.location,
            self.manifest,
            self.row,
            started_at=self.started_at,
            machine=self._machine(),
        )

    def _machine(self) -> dict[str, str]:
        """On what it ran; nothing is asked or imported where ECS has not started this process."""
        if not self.location.on_ecs:
            return {}
        from batch_pipeline.container.machine import machine_of

        return asdict(self.cache.keep("machine", lambda: machine_of(self.environment)))
