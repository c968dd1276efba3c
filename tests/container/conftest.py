"""A workshop for cells: bundles made by hand, manifests, a store in a folder or in memory, lives in this process."""

from __future__ import annotations

import hashlib
import io
import json
import os
import select
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from batch_pipeline.container.entry import run_child
from batch_pipeline.container.logger import without_log_lines
from batch_pipeline.wire import layout
from batch_pipeline.wire.manifest import InputSpec, Manifest, OutputSpec, ReferenceSpec, Row, SourceFile, write_rows
from batch_pipeline.wire.receipt import Failure, FileRecord, Receipt
from batch_pipeline.wire.scratch import own_folder
from batch_pipeline.wire.store import NotInStore, Store, open_store

REPOSITORY = Path(__file__).resolve().parents[2]

COPY = '#!/bin/sh\nset -e\ncp "$INPUT_X" "$OUTPUT_DIR/y"\necho copied "$SAMPLE"\n'

HEAD = """
from __future__ import annotations
import os, sys, time
from batch_pipeline import Input, InvalidOutput, Output, Param, Step
"""


def make_zip(members: Mapping[str, str | bytes], *, executable: Sequence[str] = ()) -> bytes:
    """A zip with these members; those named (and all `.sh`) get the executable bit."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            mode = 0o755 if name in executable or name.endswith(".sh") else 0o644
            info.external_attr = (0o100000 | mode) << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def ends(pid: int) -> bool:
    """Whether a process that was told to end does; how soon is the kernel's business."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 30)[0])
    finally:
        os.close(descriptor)


@dataclass(kw_only=True)
class Workshop:
    """A store, a scratch root and the lives of containers between them."""

    root: Path
    store: Store
    warm: dict[str, object] = field(default_factory=dict)
    #: The log of the last life in this process.
    log: bytes = b""

    @property
    def scratch(self) -> Path:
        return self.root / "scratch"

    def bundle(self, members: Mapping[str, str | bytes]) -> str:
        data = make_zip(members)
        sha256 = hashlib.sha256(data).hexdigest()
        self.store.put(layout.bundle(sha256), data)
        return sha256

    def source(self, key: str, data: bytes) -> SourceFile:
        """Puts a source file into the store, as the plan sees it."""
        self.store.put(key, data)
        entry = self.store.head(key)
        return SourceFile(url=key, etag=entry.etag, size_bytes=entry.size_bytes)

    def reference(self, port: str, key: str, data: bytes) -> ReferenceSpec:
        self.store.put(key, data)
        entry = self.store.head(key)
        return ReferenceSpec(port=port, key=key, etag=entry.etag, size_bytes=entry.size_bytes)

    def upstream(
        self,
        step: str,
        sample: str,
        files: Mapping[str, bytes],
        metrics: Mapping[str, Any] | None = None,
        *,
        noted: bool = True,
    ) -> str:
        """Results and receipt of an upstream cell; returns its fingerprint.

        In a folder the receipt notes when a file was published, as not all earlier versions did (`noted`).
        """
        outputs = []
        for name, data in files.items():
            key = layout.result(step, sample, name)
            self.store.put(key, data)
            digest = hashlib.sha256(data).hexdigest()
            version = self.store.version(self.store.head(key)) if noted and self.store.folder else ""
            outputs.append(FileRecord(port="out", key=key, size_bytes=len(data), sha256=digest, etag=version))
        fingerprint = hashlib.sha256(f"{step} {sample}".encode()).hexdigest()[:16]
        receipt = Receipt(
            run_id="R",
            step=step,
            sample=sample,
            fingerprint=fingerprint,
            attempt=1,
            started_at="",
            stopped_at="",
            outputs=tuple(outputs),
            metrics=metrics or {},
        )
        self.store.put_json(layout.receipt(step, sample, fingerprint), receipt.to_json())
        return fingerprint

    def submit(self, rows: Sequence[Row], **manifest: Any) -> dict[str, str]:
        """Writes manifest and rows; returns the environment of a job for row 0."""
        text, width = write_rows(rows)
        job = f"{manifest.get('step', 'copy')}-{uuid.uuid4().hex[:8]}"
        facts: dict[str, Any] = {
            "run_id": "R",
            "job": job,
            "step": "copy",
            "scope": "sample",
            "entry": "",
            "count": len(rows),
            "row_bytes": width,
            **manifest,
        }
        self.store.put(layout.submission("R", job, "rows.txt"), text)
        key = layout.submission("R", job, "manifest.json")
        self.store.put_json(key, Manifest(**facts).to_json())
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "BATCH_PIPELINE_STORE": self.store.url,
            "BATCH_PIPELINE_MANIFEST": key,
            "BATCH_PIPELINE_SCRATCH": str(self.scratch),
            "AWS_BATCH_JOB_ID": f"{job}:0",
            "AWS_BATCH_JOB_ATTEMPT": "1",
        }

    def script(self, text: str = COPY, *, data: bytes = b"data\n", **manifest: Any) -> dict[str, str]:
        """A cell whose step is a shell script with an input `x` from a source and an output `y`."""
        facts: dict[str, Any] = {
            "script": "step.sh",
            "bundle_sha256": self.bundle({"step.sh": text}),
            "inputs": (InputSpec(port="x", kind="source"),),
            "outputs": (OutputSpec(port="y", files=("y",)),),
            **manifest,
        }
        row = Row(sample="s1", fingerprint="f" * 16, sources={"x": (self.source("in/x.txt", data),)})
        return self.submit([row], **facts)

    def python(self, body: str, *, head: str = HEAD, **manifest: Any) -> dict[str, str]:
        """A cell whose step is the class `S` in `steps/s.py` of its bundle, with an output `y`."""
        facts: dict[str, Any] = {
            "entry": "steps.s:S",
            "bundle_sha256": self.bundle({"steps/s.py": head + body}),
            "outputs": (OutputSpec(port="y", files=("y",)),),
            **manifest,
        }
        return self.submit([Row(sample="s1", fingerprint="f" * 16)], **facts)

    def live(self, environment: Mapping[str, str], *arguments: str, **options: Any) -> int:
        """One life in this process, its log a regular file as on the embedded Batch."""
        self.root.mkdir(exist_ok=True)
        log = self.root / "log"
        outer = os.dup(1), os.dup(2)
        sys.stdout.flush()
        sys.stderr.flush()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        try:
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            return run_child(environment, arguments, self.warm, **options)
        finally:
            for number, before in zip((1, 2), outer, strict=True):
                os.dup2(before, number)
                os.close(before)
            os.close(descriptor)
            self.log = log.read_bytes()

    def start(self, environment: Mapping[str, str], *arguments: str) -> subprocess.Popen[bytes]:
        """One life as a process, its log a pipe as on AWS."""
        command = [sys.executable, "-m", "batch_pipeline.container", *arguments]
        return subprocess.Popen(
            command, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=self.root
        )

    def receipt(self, step: str = "copy", sample: str = "s1") -> Receipt | None:
        """The one receipt of a cell, or None."""
        entries = list(self.store.list(layout.receipts(step, sample)))
        assert len(entries) < 2
        return Receipt.from_json(self.store.get_json(entries[0].key)) if entries else None

    def failure(self, step: str = "copy", sample: str = "s1", attempt: int = 1) -> Failure | None:
        try:
            return Failure.from_json(self.store.get_json(layout.failure("R", step, sample, attempt)))
        except NotInStore:
            return None

    def result(self, name: str = "y", step: str = "copy", sample: str = "s1") -> bytes:
        return self.store.get(layout.result(step, sample, name))

    def stored_log(self, step: str = "copy", sample: str = "s1", attempt: int = 1) -> bytes:
        return self.store.get(layout.log("R", step, sample, attempt))

    def printed(self) -> bytes:
        """The stored log without the container's own lines."""
        return without_log_lines(self.stored_log())

    def left_in_scratch(self) -> list[str]:
        """What lies in this user's scratch but the cache."""
        own = Path(own_folder(str(self.scratch)))
        assert os.listdir(self.scratch) == [own.name]
        return [name for name in os.listdir(own) if name != "cache"]

    @property
    def cached(self) -> Path:
        """The cache in this user's scratch."""
        return Path(own_folder(str(self.scratch)), "cache")

    def dump(self) -> dict[str, Any]:
        """What lies in the store, times and places left out."""
        found: dict[str, Any] = {}
        for entry in self.store.list(""):
            data = self.store.get(entry.key)
            if "/receipts/" in f"/{entry.key}" or entry.key.endswith("failure.json"):
                found[entry.key] = {
                    key: value
                    for key, value in json.loads(data).items()
                    if key not in ("started_at", "stopped_at", "usage", "inputs", "native_id", "log_tail")
                }
                # Versions are a folder's, and tell of times.
                for output in found[entry.key].get("outputs", ()):
                    assert bool(output.pop("etag")) == (self.store.folder is not None)
            elif not entry.key.startswith("runs/"):
                found[entry.key] = without_log_lines(data) if entry.key.endswith(".log") else data
        return found


@pytest.fixture(params=["folder", "memory"])
def workshop(request: pytest.FixtureRequest, tmp_path: Path) -> Workshop:
    """A workshop over each kind of store."""
    url = str(tmp_path / "store") if request.param == "folder" else f"memory://{uuid.uuid4().hex}"
    return Workshop(root=tmp_path, store=open_store(url, create=True))


@pytest.fixture
def folder_workshop(tmp_path: Path) -> Workshop:
    """A workshop over a folder, which other processes see too."""
    return Workshop(root=tmp_path, store=open_store(str(tmp_path / "store"), create=True))


@pytest.fixture
def memory_workshop(tmp_path: Path) -> Workshop:
    """A workshop over memory, whose files are downloaded and uploaded."""
    return Workshop(root=tmp_path / "memory", store=open_store(f"memory://{uuid.uuid4().hex}"))
