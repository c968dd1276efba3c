"""A backend in memory whose children leave results and receipts that name them, as containers do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from batch_pipeline.backends.base import JobRequest
from batch_pipeline.records.manifests import cells_of
from batch_pipeline.wire import layout
from batch_pipeline.wire.contract import Variable
from batch_pipeline.wire.digest import sha256_of_bytes
from batch_pipeline.wire.receipt import FileRecord, Receipt
from batch_pipeline.wire.store import Store
from tests.run.small import Stage

NAMES = {"upper": "{sample}.txt", "count": "count.txt", "total": "total.txt"}
PORTS = {"upper": "upper", "count": "count", "total": "total"}
#: Step -> the step that it reads.
BEFORE = {"count": "upper", "total": "count"}
REFERENCE = "references/hg/index.idx"


class Maker(Stage):
    """See the module; every step reads a file of a reference too."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._second = 0

    def _act(self, request: JobRequest, index: int) -> int:
        code = super()._act(request, index)
        if code == 0:
            _, run_id, _, job, _ = request.environment[Variable.MANIFEST].split("/")
            manifest = self.store.get_json(request.environment[Variable.MANIFEST])
            sample, fingerprint = cells_of(self.store, run_id, job)[index]
            self._leave(manifest, sample, fingerprint)
        return code

    def _leave(self, manifest: dict[str, Any], sample: str, fingerprint: str) -> None:
        step = manifest["step"]
        key = layout.receipt(step, sample, fingerprint)
        receipt = Receipt.from_json(self.store.get_json(key))
        gathered = manifest["gathered"].get("count", ())
        readers = [name for name, _ in gathered] if sample == layout.COHORT else [sample]
        read = [self.output(BEFORE[step], name) for name in readers] if step in BEFORE else []
        text = f"{step} of {sample} by {manifest['run_id']}\n".encode()
        self.store.put(self.key(step, sample), text)
        self._second += 2
        inputs = (*receipt.inputs, *(replace(one, port="text", sha256="") for one in read), reference_input())
        self.store.put_json(
            key,
            replace(
                receipt,
                started_at=f"2026-01-01T00:{self._second // 60:02d}:{self._second % 60:02d}.000Z",
                stopped_at=f"2026-01-01T00:{self._second // 60:02d}:{self._second % 60:02d}.900Z",
                inputs=inputs,
                outputs=(self.output(step, sample),),
                versions={"counter": "1.2"},
            ).to_json(),
        )

    def key(self, step: str, sample: str) -> str:
        return layout.result(step, sample, NAMES[step].replace("{sample}", sample))

    def output(self, step: str, sample: str) -> FileRecord:
        key = self.key(step, sample)
        text = self.store.get(key)
        return FileRecord(port=PORTS[step], key=key, size_bytes=len(text), sha256=sha256_of_bytes(text))


def reference_input() -> FileRecord:
    return FileRecord(port="index", key=REFERENCE, size_bytes=5, etag="r1")
