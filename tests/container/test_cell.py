"""A cell from its manifest to its receipt, over a folder and over memory."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from batch_pipeline.container import files, meter
from batch_pipeline.wire import layout
from batch_pipeline.wire.errors import StoreFailed
from batch_pipeline.wire.manifest import InputSpec, OutputSpec, Row, SourceFile
from batch_pipeline.wire.plain_text import MOST_CHARACTERS

if TYPE_CHECKING:
    from tests.container.conftest import Workshop

WRITE_Y = """
class S(Step):
    y = Output("y")
    def run(self, job):
        job.output("y").write_text(f"hello {job.sample}")
"""


def test_a_script_cell_leaves_output_log_and_receipt(workshop: Workshop) -> None:
    environment = workshop.script(queued_at="2026-01-01T00:00:00.000Z")
    assert workshop.live(environment) == 0, workshop.log
    receipt = workshop.receipt()
    assert receipt
    assert workshop.result() == b"data\n"
    assert workshop.printed() == b"copied s1\n"
    assert [(r.port, r.key, r.size_bytes, r.sha256) for r in receipt.outputs] == [
        ("y", "results/copy/s1/y", 5, hashlib.sha256(b"data\n").hexdigest())
    ]
    assert [(r.port, r.key, r.size_bytes) for r in receipt.inputs] == [("x", "in/x.txt", 5)]
    assert receipt.inputs[0].etag == workshop.store.head("in/x.txt").etag
    assert (receipt.run_id, receipt.step, receipt.sample, receipt.fingerprint) == ("R", "copy", "s1", "f" * 16)
    assert (receipt.attempt, receipt.native_id) == (1, environment["AWS_BATCH_JOB_ID"])
    assert receipt.host == os.uname().nodename
    assert receipt.usage.staged_in_bytes == receipt.usage.staged_out_bytes == 5
    assert receipt.usage.peak_memory_bytes > 100_000
    assert receipt.queued_at < receipt.started_at <= receipt.stopped_at
    assert receipt.started_at.endswith("Z")
    assert len(receipt.started_at) == 24
    assert workshop.left_in_scratch() == []


def test_a_python_cell_leaves_what_it_noted(workshop: Workshop) -> None:
    environment = workshop.python(
        """
class S(Step):
    y = Output("y")
    times = Param(1)
    def run(self, job):
        print("hi")
        job.output("y").write_text(job.sample * self.times)
        job.note(reads=7, kept=0.5)
        job.version("tool", "1.2")
    def check(self, job):
        job.note(checked=job.output("y").read_text())
""",
        params={"times": 2},
    )
    assert workshop.live(environment) == 0, workshop.log
    receipt = workshop.receipt()
    assert receipt
    assert receipt.metrics == {"reads": 7, "kept": 0.5, "checked": "s1s1"}
    assert receipt.versions == {"tool": "1.2"}
    assert workshop.printed() == b"hi\n"


def test_both_stores_hold_the_same_afterwards(folder_workshop: Workshop, memory_workshop: Workshop) -> None:
    for place in (folder_workshop, memory_workshop):
        assert place.live(place.script()) == 0
        assert place.live(place.python(WRITE_Y, step="hello")) == 0
        assert place.live(place.script("#!/bin/sh\necho no\nexit 3\n", step="bad")) == 3
    dump = folder_workshop.dump()
    assert dump == memory_workshop.dump()
    assert [key for key in sorted(dump) if not key.startswith("code/")] == [
        "in/x.txt",
        "logs/R/bad/s1/1.failure.json",
        "logs/R/bad/s1/1.log",
        "logs/R/copy/s1/1.log",
        "logs/R/hello/s1/1.log",
        "receipts/copy/s1/ffffffffffffffff.json",
        "receipts/hello/s1/ffffffffffffffff.json",
        "results/copy/s1/y",
        "results/hello/s1/y",
    ]


def test_each_child_takes_its_own_row(workshop: Workshop) -> None:
    rows = [
        Row(sample=f"s{i}", fingerprint=f"{i:016d}", sources={"x": (workshop.source(f"in/{i}", b"%d" % i),)})
        for i in range(12)
    ]
    environment = workshop.submit(
        rows,
        script="step.sh",
        bundle_sha256=workshop.bundle({"step.sh": '#!/bin/sh\ncp "$INPUT_X" y\n'}),
        inputs=(InputSpec(port="x", kind="source"),),
        outputs=(OutputSpec(port="y", files=("y",)),),
    )
    for index in (3, 11):
        child = {"AWS_BATCH_JOB_ARRAY_INDEX": str(index), "AWS_BATCH_JOB_ID": f"j:{index}"}
        assert workshop.live({**environment, **child}) == 0, workshop.log
        assert workshop.result(sample=f"s{index}") == str(index).encode()
    assert workshop.live({**environment, "AWS_BATCH_JOB_ARRAY_INDEX": "12"}) == 64
    assert b"has 12 cells" in workshop.log


HOSTILE = "a 'b' \"c\" $(touch x) `touch y`; é"


def test_a_script_finds_all_it_needs_in_its_environment(workshop: Workshop) -> None:
    fingerprint = workshop.upstream("prep", "s1", {"s1_1.fq": b"1", "s1_2.fq": b"2"})
    columns = {"strand": HOSTILE, "paired": True}
    row = Row(sample="s1", fingerprint="f" * 16, upstream={"prep": fingerprint}, columns=columns)
    script = """#!/bin/sh
echo "$SAMPLE $CPUS $MEMORY_MB $PARAM_K $PARAM_FAST $MINE"
cat $INPUT_READS $REFERENCE_INDEX
echo
echo "$INPUT_READS_COUNT $(basename "$INPUT_READS_2") $COLUMN_STRAND $COLUMN_PAIRED"
for f in $INPUT_READS; do basename $f; done
test "$OUTPUT_DIR" = "$PWD" && echo inside
ls -A | wc -l
"""
    environment = workshop.submit(
        [row],
        script="bin/step.sh",
        bundle_sha256=workshop.bundle({"bin/step.sh": script}),
        inputs=(InputSpec(port="reads", kind="step", step="prep", files=("{sample}_1.fq", "{sample}_2.fq")),),
        references=(workshop.reference("index", "references/g/k.idx", b"REF"),),
        params={"k": 31, "fast": True},
        cpus=2,
        memory_mb=512,
    )
    assert workshop.live({**environment, "MINE": "kept"}) == 0, workshop.log
    assert workshop.printed().decode().split("\n") == [
        "s1 2 512 31 true kept", "12REF", f"2 s1_2.fq {HOSTILE} true", "s1_1.fq", "s1_2.fq", "inside", "0", ""
    ]  # fmt: skip


def test_a_step_sees_its_upstream_files_and_metrics(workshop: Workshop) -> None:
    fingerprint = workshop.upstream("prep", "s1", {"sub/a.txt": b"A"}, {"reads": 9})
    environment = workshop.submit(
        [Row(sample="s1", fingerprint="f" * 16, upstream={"prep": fingerprint})],
        entry="steps.s:S",
        bundle_sha256=workshop.bundle(
            {
                "steps/s.py": """
from batch_pipeline import Input, Output, Reference, Step
class S(Step):
    def run(self, job):
        assert job.input("x").name == "a.txt"
        assert job.reference_name == "g" and job.run_id == "R" and job.attempt == 1
        text = job.input("x").read_text() + str(job.upstream_metrics["prep"]["reads"])
        assert job.inputs("extra") == ()
        job.output("y").write_text(text + job.reference("ref").read_text())
"""
            }
        ),
        inputs=(
            InputSpec(port="x", kind="step", step="prep", files=("sub/a.txt",)),
            InputSpec(port="extra", kind="step", step="prep", files=("optional.txt",)),
        ),
        outputs=(OutputSpec(port="y", files=("y.{sample}.txt",)),),
        references=(workshop.reference("ref", "references/g/r.txt", b"R"),),
        reference="g",
    )
    assert workshop.live(environment) == 0, workshop.log
    assert workshop.result("y.s1.txt") == b"A9R"


def test_an_optional_output_that_is_not_made_any_more_goes_with_its_receipt(workshop: Workshop) -> None:
    outputs = (OutputSpec(port="y", files=("y",)), OutputSpec(port="z", files=("z",), optional=True))

    def made(script: str, fingerprint: str) -> None:
        environment = workshop.submit(
            [Row(sample="s1", fingerprint=fingerprint)],
            script="s.sh",
            bundle_sha256=workshop.bundle({"s.sh": script}),
            outputs=outputs,
        )
        assert workshop.live(environment) == 0, workshop.log

    workshop.store.put("results/copy/s1/of a person", b"stays")
    made("#!/bin/sh\ntouch y z\n", "e" * 16)
    assert workshop.result("z") == b""
    made("#!/bin/sh\ntouch y\n", "f" * 16)
    assert sorted(workshop.store.keys("results/copy")) == ["results/copy/s1/of a person", "results/copy/s1/y"]


def test_what_may_not_be_removed_is_told(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The role of an older stack may replace results, and remove receipts alone."""
    outputs = (OutputSpec(port="y", files=("y",), optional=True),)
    kind = files.FolderFiles if workshop.store.folder else files.ObjectFiles
    delete = kind.delete

    def refusing(self: Any, keys: list[str], **options: bool) -> None:
        if any(key.startswith("results/") for key in keys):
            raise StoreFailed("AccessDenied.")
        delete(self, keys, **options)

    monkeypatch.setattr(kind, "delete", refusing)
    for script, fingerprint in (("touch y", "e" * 16), ("true", "f" * 16)):
        environment = workshop.submit(
            [Row(sample="s1", fingerprint=fingerprint)],
            script="s.sh",
            bundle_sha256=workshop.bundle({"s.sh": f"#!/bin/sh\n{script}\n"}),
            outputs=outputs,
        )
        assert workshop.live(environment) == 0, workshop.log
    assert b"does not, stays: results/copy/s1/y. AccessDenied." in workshop.log


def test_a_required_port_is_never_empty(workshop: Workshop) -> None:
    """The results of other code are trusted, and that one named its outputs otherwise."""
    fingerprint = workshop.upstream("prep", "s1", {"old.txt": b"A"})
    environment = workshop.submit(
        [Row(sample="s1", fingerprint="f" * 16, upstream={"prep": fingerprint})],
        script="s.sh",
        bundle_sha256=workshop.bundle({"s.sh": "#!/bin/sh\ntouch y\n"}),
        inputs=(InputSpec(port="x", kind="step", step="prep", files=("new.txt",)),),
        outputs=(OutputSpec(port="y", files=("y",)),),
        required=("x",),
        format=2,
    )
    assert workshop.live(environment) == 66
    failure = workshop.failure()
    assert failure is not None
    assert failure.message.startswith("prep of s1 has no 'new.txt', which input 'x' needs: other code made it.")


def test_a_gather_sees_every_sample(workshop: Workshop) -> None:
    cells = [[s, workshop.upstream("count", s, {f"{s}.n": s.encode()}, {"n": i})] for i, s in enumerate(("b", "a"))]
    facts: dict[str, Any] = {
        "step": "merge",
        "scope": "cohort",
        "inputs": (InputSpec(port="counts", kind="gather", step="count", files=("{sample}.n",)),),
        "outputs": (OutputSpec(port="table", files=("table.txt",)),),
        "gathered": {"count": cells},
        "missing": ("c",),
    }
    row = Row(sample=layout.COHORT, fingerprint="e" * 16)
    python = workshop.bundle(
        {
            "m.py": """
from batch_pipeline import Step
class M(Step):
    def run(self, job):
        found = {s: [f.read_text() for f in files] for s, files in job.gathered("counts").items()}
        assert list(found) == ["b", "a"] and job.missing_samples == ("c",)
        assert {s: m["n"] for s, m in job.gathered_metrics["count"].items()} == {"b": 0, "a": 1}
        job.output("table").write_text(repr(found))
"""
        }
    )
    assert workshop.live(workshop.submit([row], entry="m:M", bundle_sha256=python, **facts)) == 0, workshop.log
    assert workshop.store.get("cohort/merge/table.txt") == b"{'b': ['b'], 'a': ['a']}"
    receipt = workshop.receipt("merge", layout.COHORT)
    assert receipt
    assert [r.key for r in receipt.inputs] == ["results/count/b/b.n", "results/count/a/a.n"]
    script = workshop.bundle(
        {
            "m.sh": """#!/bin/sh
cut -f1 "$INPUT_COUNTS_LIST" > table.txt
cut -f2 "$INPUT_COUNTS_LIST" | xargs cat >> table.txt
cat $INPUT_COUNTS >> table.txt
"""
        }
    )
    assert workshop.live(workshop.submit([row], script="m.sh", bundle_sha256=script, **facts)) == 0, workshop.log
    assert workshop.store.get("cohort/merge/table.txt") == b"b\na\nbaba"


def test_a_port_named_like_a_file_of_another_goes_before_it(workshop: Workshop) -> None:
    sources = {port: (workshop.source(f"in/{port}", port.encode()),) for port in ("x_1", "x")}
    environment = workshop.submit(
        [Row(sample="s1", fingerprint="f" * 16, sources=sources)],
        script="step.sh",
        bundle_sha256=workshop.bundle({"step.sh": '#!/bin/sh\ncat "$INPUT_X_1" "$INPUT_X" > y\n'}),
        inputs=(InputSpec(port="x_1", kind="source"), InputSpec(port="x", kind="source")),
        outputs=(OutputSpec(port="y", files=("y",)),),
    )
    assert workshop.live(environment) == 0, workshop.log
    assert workshop.result() == b"x_1x"


def test_a_step_has_the_values_of_its_row(workshop: Workshop) -> None:
    body = """
from __future__ import annotations
from batch_pipeline import Column, Output, Step

class S(Step):
    y = Output("y")
    strand: str = Column("strandedness")
    depth: int = Column(default=1)

    def run(self, job):
        assert job.columns == {"strand": self.strand, "depth": self.depth}
        job.output("y").write_text(f"{self.strand} {self.depth + 1}")
"""
    environment = workshop.submit(
        [Row(sample="s1", fingerprint="f" * 16, columns={"strand": HOSTILE, "depth": 7})],
        entry="steps.s:S",
        bundle_sha256=workshop.bundle({"steps/s.py": body}),
        outputs=(OutputSpec(port="y", files=("y",)),),
        columns=(("strand", "str"), ("depth", "int")),
        needs=("columns",),
        format=3,
    )
    assert workshop.live(environment) == 0, workshop.log
    assert workshop.result().decode() == f"{HOSTILE} 8"


def test_a_gather_has_the_values_of_its_samples(workshop: Workshop) -> None:
    cells = [[sample, workshop.upstream("count", sample, {"n": b"x"})] for sample in ("b", "a")]
    facts: dict[str, Any] = {
        "step": "merge",
        "scope": "cohort",
        "inputs": (InputSpec(port="counts", kind="gather", step="count", files=("n",)),),
        "outputs": (OutputSpec(port="t", files=("t",)),),
        "gathered": {"count": cells},
        "columns": (("strand", "str"), ("paired", "bool")),
        "gathered_columns": {"b": [HOSTILE, True], "a": ["auto", False]},
        "needs": ("columns",),
        "format": 3,
    }
    row = Row(sample=layout.COHORT, fingerprint="e" * 16)
    script = workshop.bundle({"m.sh": '#!/bin/sh\ncp "$COLUMNS_LIST" t\n'})
    assert workshop.live(workshop.submit([row], script="m.sh", bundle_sha256=script, **facts)) == 0, workshop.log
    table = workshop.store.get("cohort/merge/t").decode()
    assert table == f"sample\tstrand\tpaired\nb\t{HOSTILE}\ttrue\na\tauto\tfalse\n"


@pytest.mark.slow
def test_a_gather_of_thousands_leaves_its_paths_to_the_list(folder_workshop: Workshop) -> None:
    cells = [[f"s{i}", folder_workshop.upstream("count", f"s{i}", {"n": b"x"})] for i in range(1500)]
    environment = folder_workshop.submit(
        [Row(sample=layout.COHORT, fingerprint="e" * 16)],
        step="merge",
        scope="cohort",
        inputs=(InputSpec(port="counts", kind="gather", step="count", files=("n",)),),
        outputs=(OutputSpec(port="t", files=("t",)),),
        gathered={"count": cells},
        script="m.sh",
        bundle_sha256=folder_workshop.bundle(
            {"m.sh": '#!/bin/sh\ncut -f2 "$INPUT_COUNTS_LIST" | xargs cat | wc -c > t\ntest -z "$INPUT_COUNTS"\n'}
        ),
    )
    assert folder_workshop.live(environment) == 0, folder_workshop.log
    assert folder_workshop.store.get("cohort/merge/t").strip() == b"1500"


def test_a_reference_step_publishes_under_the_references(workshop: Workshop) -> None:
    environment = workshop.script(scope="reference", reference="GRCh38")
    assert workshop.live(environment) == 0, workshop.log
    assert workshop.store.get("references/GRCh38/y") == b"data\n"
    receipt = workshop.receipt()
    assert receipt
    assert receipt.outputs[0].key == "references/GRCh38/y"


def test_sources_outside_the_store_and_of_one_name_are_staged(workshop: Workshop) -> None:
    folder = workshop.root / "lanes with space"
    sources = []
    for lane in ("1", "2"):
        (folder / lane).mkdir(parents=True)
        path = folder / lane / "x.fq"
        path.write_text(lane)
        found = path.stat()
        etag = f"{found.st_ino:x}-{found.st_mtime_ns // 1000:x}-1"
        url = str(path) if lane == "1" else path.as_uri()
        sources.append(SourceFile(url=url, etag=etag, size_bytes=1))
    environment = workshop.submit(
        [Row(sample="s1", fingerprint="f" * 16, sources={"x": tuple(sources)})],
        script="step.sh",
        bundle_sha256=workshop.bundle({"step.sh": "#!/bin/sh\ncat $INPUT_X > y\n"}),
        inputs=(InputSpec(port="x", kind="source"),),
        outputs=(OutputSpec(port="y", files=("y",)),),
    )
    assert workshop.live(environment) == 0, workshop.log
    assert workshop.result() == b"12"


def test_an_absent_optional_output_is_no_error(workshop: Workshop) -> None:
    outputs = (OutputSpec(port="y", files=("y",)), OutputSpec(port="z", files=("z", "w"), optional=True))
    assert workshop.live(workshop.script('#!/bin/sh\ncp "$INPUT_X" y; echo w > w\n', outputs=outputs)) == 0
    receipt = workshop.receipt()
    assert receipt
    assert [record.key for record in receipt.outputs] == ["results/copy/s1/y", "results/copy/s1/w"]


def test_a_second_attempt_at_a_done_cell_does_nothing(workshop: Workshop) -> None:
    environment = workshop.script()
    assert workshop.live(environment) == 0
    before = workshop.receipt()
    assert workshop.live({**environment, "AWS_BATCH_JOB_ATTEMPT": "2"}) == 0
    assert b"is done already" in workshop.log
    assert workshop.receipt() == before


def test_a_second_attempt_after_a_failure_does_all(workshop: Workshop) -> None:
    environment = workshop.script('#!/bin/sh\ntest "$AWS_BATCH_JOB_ATTEMPT" = 2 && cp "$INPUT_X" y\n')
    assert workshop.live(environment) == 1
    assert workshop.receipt() is None
    assert workshop.live({**environment, "AWS_BATCH_JOB_ATTEMPT": "2"}) == 0
    receipt, failure = workshop.receipt(), workshop.failure()
    assert receipt
    assert receipt.attempt == 2
    assert failure
    assert failure.attempt == 1


def test_older_receipts_of_the_cell_go_before_the_new_one_comes(workshop: Workshop) -> None:
    old = layout.receipt("copy", "s1", "0" * 16)
    other = layout.receipt("copy", "s10", "0" * 16)
    workshop.store.put(old, b"{}")
    workshop.store.put(other, b"{}")
    assert workshop.live(workshop.script()) == 0
    receipt = workshop.receipt()
    assert receipt
    assert receipt.fingerprint == "f" * 16
    assert workshop.store.get(other) == b"{}"


def test_a_failing_rerun_leaves_the_older_receipt(workshop: Workshop) -> None:
    old = layout.receipt("copy", "s1", "0" * 16)
    workshop.store.put(old, b"{}")
    assert workshop.live(workshop.script("#!/bin/sh\nexit 1\n")) == 1
    assert workshop.store.get(old) == b"{}"


def test_a_scripts_class_still_checks(workshop: Workshop) -> None:
    members = {
        "steps/s.py": """
from batch_pipeline import InvalidOutput, Step
class S(Step):
    script = "step.sh"
    def check(self, job):
        job.note(size=job.output("y").stat().st_size)
        if job.output("y").read_text() != "good":
            raise InvalidOutput(f"{job.sample} is not good.")
class Plain(Step):
    script = "step.sh"
class Derived(S):
    pass
""",
        "steps/step.sh": '#!/bin/sh\ncp "$INPUT_X" y\n',
    }
    facts = {"script": "steps/step.sh", "bundle_sha256": workshop.bundle(members)}
    assert workshop.live(workshop.script(data=b"good", entry="steps.s:S", **facts)) == 0, workshop.log
    receipt = workshop.receipt()
    assert receipt
    assert receipt.metrics == {"size": 4}
    for entry, code in (("steps.s:S", 65), ("steps.s:Derived", 65), ("steps.s:Plain", 0)):
        assert workshop.live(workshop.script(data=b"bad", entry=entry, **facts)) == code, workshop.log
    failure = workshop.failure()
    assert failure
    assert failure.message == "s1 is not good."
    assert failure.metrics == {"size": 3}


def remove_source(workshop: Workshop, _: dict[str, str]) -> None:
    workshop.store.delete(["in/x.txt"])


def change_source(workshop: Workshop, _: dict[str, str]) -> None:
    workshop.store.put("in/x.txt", b"DATA\n")


def grow_source(workshop: Workshop, _: dict[str, str]) -> None:
    workshop.store.put("in/x.txt", b"data and more\n")


def remove_bundle(workshop: Workshop, _: dict[str, str]) -> None:
    workshop.store.delete([entry.key for entry in workshop.store.list("code")])


def damage_bundle(workshop: Workshop, _: dict[str, str]) -> None:
    for entry in list(workshop.store.list("code")):
        workshop.store.put(entry.key, b"no zip")


@pytest.mark.parametrize(
    ("harm", "code", "reason", "words"),
    [
        (remove_source, 66, "missing_input", "in/x.txt is not there"),
        (change_source, 66, "missing_input", "in/x.txt changed since it was planned"),
        (grow_source, 66, "missing_input", "in/x.txt changed since it was planned"),
        (remove_bundle, 66, "missing_input", "it holds the code of this job"),
        (damage_bundle, 64, "contract", "does not have the promised SHA-256"),
    ],
)
def test_what_changed_since_the_plan_is_told(
    workshop: Workshop, harm: Callable[[Workshop, dict[str, str]], None], code: int, reason: str, words: str
) -> None:
    environment = workshop.script()
    harm(workshop, environment)
    assert workshop.live(environment) == code
    failure = workshop.failure()
    assert failure
    assert (failure.exit_code, failure.end_reason) == (code, reason)
    assert words in failure.message
    assert workshop.receipt() is None
    assert failure.message.encode() in workshop.stored_log()
    assert workshop.left_in_scratch() == []


def test_upstream_results_that_the_plan_did_not_see_are_refused(workshop: Workshop) -> None:
    fingerprint = workshop.upstream("prep", "s1", {"a": b"A"})
    facts: dict[str, Any] = {
        "script": "step.sh",
        "bundle_sha256": workshop.bundle({"step.sh": '#!/bin/sh\ncp "$INPUT_X" y\n'}),
        "inputs": (InputSpec(port="x", kind="step", step="prep", files=("a",)),),
        "outputs": (OutputSpec(port="y", files=("y",)),),
    }
    environment = workshop.submit([Row(sample="s1", fingerprint="f" * 16, upstream={"prep": fingerprint})], **facts)
    workshop.store.delete([layout.receipt("prep", "s1", fingerprint)])
    assert workshop.live(environment) == 66
    assert b"results of prep for sample s1 are not those the plan saw" in workshop.log
    environment = workshop.submit([Row(sample="s1", fingerprint="f" * 16)], **facts)
    assert workshop.live(environment) == 64


@pytest.mark.parametrize(
    ("script", "code", "reason", "words"),
    [
        ("exit 7", 7, "step_failed", "step.sh ended with exit code 7."),
        ("echo oh no >&2; exit 1", 1, "step_failed", "step.sh ended with exit code 1: oh no"),
        ('echo "no $PWD/x.bam" >&2; exit 1', 1, "step_failed", "step.sh ended with exit code 1: no work/x.bam"),
        ("kill -9 $$", 1, "step_failed", "step.sh was killed (signal 9). Not for lack of memory (its peak was "),
        ("sh -c 'kill -9 $$'", 1, "step_failed", "step.sh ended with exit code 137 (signal 9). Not for"),
        ("timeout -s KILL 0.01 sleep 9", 1, "step_failed", " of 1,024 MiB"),
        ("echo std::bad_alloc >&2; kill -9 $$", 137, "out_of_memory", "raise memory_mb"),
        ("kill -SEGV $$", 139, "step_failed", "signal 11"),
        ("echo 'cp: No space left on device' >&2; exit 1", 74, "disk_full", "give it a larger one"),
        ("true", 65, "invalid_output", "did not write 'y'"),
        ("mkdir y", 65, "invalid_output", "left a folder as 'y'"),
        ("ln -s /etc/passwd y", 65, "invalid_output", "left a link as 'y'"),
        ("mkfifo y", 65, "invalid_output", "left a special file as 'y'"),
    ],
)
def test_how_a_script_can_fail(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, script: str, code: int, reason: str, words: str
) -> None:
    monkeypatch.setattr(meter, "oom_kills", lambda: 3)
    assert workshop.live(workshop.script(f"#!/bin/sh\n{script}\n")) == code
    failure = workshop.failure()
    assert failure
    assert (failure.exit_code, failure.end_reason) == (code, reason)
    assert words in failure.message
    assert failure.log_tail.endswith(f"copy of s1 failed: {failure.message}\n")
    assert workshop.receipt() is None
    assert not list(workshop.store.list("results"))


@pytest.mark.parametrize(
    ("run", "code", "reason", "words"),
    [
        ("raise InvalidOutput('No reads.')", 65, "invalid_output", "No reads."),
        (r"raise InvalidOutput('a \x1b[2J\nb' + 'y' * 99999)", 65, "invalid_output", "a \ufffd[2J byyy"),
        ("1/0", 1, "step_failed", "ZeroDivisionError: division by zero"),
        ("sys.exit(0)", 1, "step_failed", "SystemExit: 0"),
        ("os._exit(0)", 1, "step_failed", "The process of copy ended with exit code 1"),
        ("os._exit(9)", 9, "step_failed", "The process of copy ended with exit code 9"),
        ("os.kill(os.getpid(), 9)", 1, "step_failed", "The process of copy was killed (signal 9). Not for lack"),
        (
            "import sh; sh.sh('-c', 'kill -9 $$')",
            1,
            "step_failed",
            "sh … was killed (signal 9). Not for lack of memory",
        ),
        ("open('/dev/full', 'w').write('x' * 100000)", 74, "disk_full", "no space left"),
        ("import sh; sh.sh('-c', 'echo bad >&2; exit 4')", 1, "step_failed", "sh … ended with exit code 4: bad"),
        ("import sh; sh.nosuchtool()", 1, "step_failed", "CommandNotFound: nosuchtool"),
        ("raise MemoryError", 137, "out_of_memory", "MemoryError"),
        ("job.input('nope')", 64, "contract", "has no input 'nope'"),
    ],
)
def test_how_a_python_step_can_fail(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, run: str, code: int, reason: str, words: str
) -> None:
    monkeypatch.setattr(meter, "oom_kills", lambda: 3)
    body = f"class S(Step):\n    y = Output('y')\n    def run(self, job):\n        job.note(n=1)\n        {run}\n"
    assert workshop.live(workshop.python(body)) == code, workshop.log
    failure = workshop.failure()
    assert failure
    assert (failure.exit_code, failure.end_reason) == (code, reason)
    assert words in failure.message
    assert len(failure.message) <= MOST_CHARACTERS
    if "os." not in run:
        assert failure.metrics == {"n": 1}


def test_a_message_without_end_is_cut(workshop: Workshop) -> None:
    body = (
        "class S(Step):\n    y = Output('y')\n    def run(self, job):\n        raise InvalidOutput('long ' * 100000)\n"
    )
    assert workshop.live(workshop.python(body)) == 65, workshop.log
    failure = workshop.failure()
    assert failure
    assert failure.message.startswith("long long")
    assert len(failure.message) <= MOST_CHARACTERS


def test_a_tool_that_the_kernel_killed_for_memory_asks_for_more(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([3, 4])
    monkeypatch.setattr(meter, "oom_kills", lambda: next(counts))
    assert workshop.live(workshop.script("#!/bin/sh\nkill -9 $$\n")) == 137
    failure = workshop.failure()
    assert failure
    assert (failure.exit_code, failure.end_reason) == (137, "out_of_memory")
    assert failure.message == "step.sh was killed (signal 9). The kernel killed for lack of memory: raise memory_mb."


@pytest.mark.parametrize(
    ("module", "entry", "words"),
    [
        ("raise RuntimeError('at import')", "steps.s:S", "RuntimeError: at import"),
        ("import sys; sys.exit('a pipeline without a guard')", "steps.s:S", "SystemExit: a pipeline without a guard"),
        ("def", "steps.s:S", "SyntaxError"),
        ("import nosuchmodule", "steps.s:S", "No module named 'nosuchmodule'"),
        ("S = 1", "steps.s:T", "has no attribute 'T'"),
        ("S = 1", "steps.t:S", "No module named 'steps.t'"),
        ("S = 1", "json:JSONEncoder", "The bundle has no module 'json'"),
    ],
)
def test_a_step_that_cannot_be_loaded_breaks_the_contract(
    workshop: Workshop, module: str, entry: str, words: str
) -> None:
    assert workshop.live(workshop.python(module, head="", entry=entry)) == 64
    failure = workshop.failure()
    assert failure
    assert failure.end_reason == "contract"
    assert words in failure.message


def test_unknown_parameters_break_the_contract(workshop: Workshop) -> None:
    assert workshop.live(workshop.python(WRITE_Y, params={"nope": 1})) == 64
    assert b"S has no parameter 'nope'" in workshop.log


def test_a_script_that_cannot_be_started_breaks_the_contract(workshop: Workshop) -> None:
    for members in ({"step.sh": "no shebang\n"}, {"step.sh": "#!/no/such/interpreter\n"}, {"other.sh": ""}):
        assert workshop.live(workshop.script(bundle_sha256=workshop.bundle(members))) == 64, members
    plain = workshop.bundle({"step": "#!/bin/sh\n"})
    assert workshop.live(workshop.script(script="step", bundle_sha256=plain)) == 64
    assert b"executable bit" in workshop.log


def test_a_step_must_not_change_its_input(folder_workshop: Workshop) -> None:
    environment = folder_workshop.script('#!/bin/sh\necho more >> "$INPUT_X"\ncp "$INPUT_X" y\n')
    assert folder_workshop.live(environment) == 65
    assert b"The step changed its input" in folder_workshop.log
    assert folder_workshop.receipt() is None


def test_an_output_that_is_an_input_by_another_name_is_copied(folder_workshop: Workshop) -> None:
    environment = folder_workshop.script('#!/bin/sh\nln -L "$INPUT_X" y\n')
    assert folder_workshop.live(environment) == 0, folder_workshop.log
    assert folder_workshop.store.folder
    source, result = (folder_workshop.store.folder / key for key in ("in/x.txt", "results/copy/s1/y"))
    assert source.stat().st_ino != result.stat().st_ino
    assert source.stat().st_nlink == 1


def damaged(workshop: Workshop, change: Callable[[dict[str, Any]], None]) -> dict[str, str]:
    environment = workshop.script()
    key = environment["BATCH_PIPELINE_MANIFEST"]
    value = workshop.store.get_json(key)
    change(value)
    workshop.store.put_json(key, value)
    return environment


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: value.update(format=4), "format 4"),
        (lambda value: value.update(format=3, needs=["news"]), "needs 'news', which this image does not know"),
        (lambda value: value.update(surprise=1), "cannot be read"),
        (lambda value: value.pop("inputs"), "cannot be read"),
        (lambda value: value.update(row_bytes=0), "how long a row is"),
        (lambda value: value.update(row_bytes=5), "row 0"),
        (lambda value: value.update(bundle_sha256=""), "(none)"),
        (lambda value: value["inputs"][0].update(kind="psychic"), "psychic"),
    ],
)
def test_a_broken_manifest_breaks_the_contract(
    workshop: Workshop, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    assert workshop.live(damaged(workshop, change)) == 64
    assert words in workshop.log.decode()


def test_a_truncated_or_missing_manifest_breaks_the_contract(workshop: Workshop) -> None:
    environment = workshop.script()
    key = environment["BATCH_PIPELINE_MANIFEST"]
    whole = workshop.store.get(key)
    for text in (whole[:100], b"[]", b""):
        workshop.store.put(key, text)
        assert workshop.live(environment) == 64, text
        assert b"is damaged" in workshop.log
    workshop.store.delete([key])
    assert workshop.live(environment) == 64
    workshop.store.put(key, whole)
    rows = key.replace("manifest.json", "rows.txt")
    workshop.store.put(rows, workshop.store.get(rows)[:-3])
    assert workshop.live(environment) == 64
    assert b"is cut off" in workshop.log
    workshop.store.delete([rows])
    assert workshop.live(environment) == 64
    assert workshop.left_in_scratch() == []


@pytest.mark.parametrize(
    ("variable", "value", "code", "words"),
    [
        ("BATCH_PIPELINE_STORE", "", 64, "BATCH_PIPELINE_STORE is not set"),
        ("BATCH_PIPELINE_STORE", "ftp://x/y", 64, "neither a folder nor s3://"),
        ("BATCH_PIPELINE_STORE", "/no/such/folder", 69, "/no/such/folder is not there"),
        ("AWS_BATCH_JOB_ARRAY_INDEX", "one", 64, "AWS_BATCH_JOB_ARRAY_INDEX is 'one'"),
        ("AWS_BATCH_JOB_ATTEMPT", "-1", 64, "AWS_BATCH_JOB_ATTEMPT is '-1'"),
        ("BATCH_FILE_SHA256", "0" * 64, 64, "The manifest names the bundle"),
    ],
)
def test_a_broken_environment_is_told(workshop: Workshop, variable: str, value: str, code: int, words: str) -> None:
    assert workshop.live({**workshop.script(), variable: value}) == code
    assert words in workshop.log.decode()


def test_the_bundle_may_lie_elsewhere(workshop: Workshop) -> None:
    environment = workshop.script()
    entry = next(iter(workshop.store.list("code")))
    path = workshop.root / "bundle.zip"
    path.write_bytes(workshop.store.get(entry.key))
    workshop.store.delete([entry.key])
    assert workshop.live({**environment, "BATCH_FILE_S3_URL": path.as_uri()}) == 0, workshop.log


def test_references_are_fetched_once_a_host(workshop: Workshop) -> None:
    facts: dict[str, Any] = {
        "references": (workshop.reference("index", "references/g/k.idx", b"REF"),),
        "bundle_sha256": workshop.bundle({"step.sh": '#!/bin/sh\ncp "$REFERENCE_INDEX" y\n'}),
    }
    environment = workshop.script(**facts)
    assert workshop.live(environment) == 0, workshop.log
    cached = list(workshop.cached.glob("references/*/k.idx"))
    if workshop.store.folder:
        assert cached == []
        return
    assert [path.read_bytes() for path in cached] == [b"REF"]
    # Whoever finds it uses it: the store is not asked again.
    workshop.store.delete(["references/g/k.idx"])
    assert workshop.live(environment) == 0, workshop.log
    assert workshop.result() == b"REF"
    cached[0].unlink()
    assert workshop.live(environment) == 66
    assert b"Build or upload the reference" in workshop.log


def test_a_tool_finds_the_files_of_a_reference_beside_each_other(workshop: Workshop) -> None:
    references = tuple(
        workshop.reference("genome", f"references/g/{name}", name.encode()) for name in ("genome.fa", "genome.fa.fai")
    )
    script = """#!/bin/sh
cat "$REFERENCE_GENOME_1" "$REFERENCE_GENOME_1.fai" > y
echo $REFERENCE_GENOME_COUNT >> y
test "$REFERENCE_GENOME" = "$REFERENCE_GENOME_1 $REFERENCE_GENOME_2"
"""
    assert workshop.live(workshop.script(script, references=references)) == 0, workshop.log
    assert workshop.result() == b"genome.fagenome.fa.fai2\n"


@pytest.mark.tools
def test_bwa_and_samtools_find_their_indexes_beside_the_genome(workshop: Workshop, tmp_path: Path) -> None:
    bases = "".join(random.Random(7).choices("ACGT", k=2000))
    genome = tmp_path / "genome.fa"
    genome.write_text(f">chr1\n{bases}\n")
    subprocess.run(["bwa", "index", genome], check=True, capture_output=True)
    subprocess.run(["samtools", "faidx", genome], check=True)
    names = ["genome.fa", *(f"genome.fa.{end}" for end in ("amb", "ann", "bwt", "pac", "sa", "fai"))]
    references = tuple(workshop.reference("genome", f"references/g/{n}", (tmp_path / n).read_bytes()) for n in names)
    script = """#!/bin/sh
bwa mem "$REFERENCE_GENOME_1" "$INPUT_X" | samtools view - | cut -f 3,4 > y
samtools faidx "$REFERENCE_GENOME_1" chr1:1-4 >> y
"""
    reads = f">read\n{bases[500:600]}\n".encode()
    assert workshop.live(workshop.script(script, data=reads, references=references)) == 0, workshop.log
    assert workshop.result() == f"chr1\t501\n>chr1:1-4\n{bases[:4]}\n".encode()


def test_a_changed_reference_is_refused(workshop: Workshop) -> None:
    environment = workshop.script(references=(workshop.reference("index", "references/g/k.idx", b"REF"),))
    workshop.store.put("references/g/k.idx", b"NEW")
    assert workshop.live(environment) == 66
    assert b"k.idx changed since it was planned" in workshop.log
    assert not list(workshop.cached.glob("references/*/*k.idx*"))


def test_a_store_that_stays_unreachable_ends_with_69(workshop: Workshop) -> None:
    from batch_pipeline.container.files import ObjectFiles
    from tests.container.test_files import Flaky

    environment = workshop.script()
    flaky = Flaky(workshop.store, 0)
    flaky.left["put_file"] = 99
    workshop.warm[f"store {workshop.store.url} "] = ObjectFiles(flaky, (0.0, 0.0))
    assert workshop.live(environment) == 69
    failure = workshop.failure()
    assert failure
    assert failure.end_reason == "store"
    assert flaky.left["put_file"] == 96
    flaky.left["put"] = 99
    assert workshop.live({**environment, "AWS_BATCH_JOB_ATTEMPT": "2"}) == 69
    assert b"put failed" in workshop.log


def test_a_store_that_fails_twice_a_request_is_overcome(workshop: Workshop) -> None:
    from batch_pipeline.container.files import ObjectFiles
    from tests.container.test_files import Flaky

    environment = workshop.script()
    flaky = Flaky(workshop.store, 2)
    workshop.warm[f"store {workshop.store.url} "] = ObjectFiles(flaky, (0.0, 0.0))
    assert workshop.live(environment) == 0, workshop.log
    assert workshop.result() == b"data\n"
    assert {kind for kind, left in flaky.left.items() if left == 0} >= {"get", "get_range", "put", "put_file", "stream"}


def test_a_life_leaves_the_process_as_it_was(workshop: Workshop) -> None:
    def state() -> dict[str, Any]:
        return {
            "folder": os.getcwd(),
            "environment": dict(os.environ),
            "handlers": [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGALRM)],
            "descriptors": set(os.listdir("/proc/self/fd")),
            "mask": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        }

    assert workshop.live(workshop.script()) == 0  # obstore opens its own descriptors at first use, once
    before = state()
    assert workshop.live(workshop.script()) == 0
    assert workshop.live(workshop.python(WRITE_Y)) == 0
    assert workshop.live(workshop.script("#!/bin/sh\nexit 3\n")) == 3
    assert workshop.live(workshop.python("class S(Step):\n    pass\n")) == 1
    assert workshop.live({**workshop.script(), "BATCH_PIPELINE_STORE": "ftp://x"}) == 64
    assert state() == before


def test_a_leftover_of_the_step_is_ended_with_it(folder_workshop: Workshop) -> None:
    from tests.container.conftest import ends

    environment = folder_workshop.script("#!/bin/sh\nsleep 1000 &\necho $! > y\n")
    assert folder_workshop.live(environment) == 0
    assert ends(int(folder_workshop.result()))


def test_binary_and_large_logs_are_kept(workshop: Workshop) -> None:
    environment = workshop.script(
        '#!/bin/sh\nhead -c 3000000 /dev/zero | tr "\\0" "\\377"\nprintf "\\000end"\nexit 1\n'
    )
    assert workshop.live(environment) == 1
    assert b"\xff" * 3_000_000 + b"\0end" in workshop.stored_log()
    failure = workshop.failure()
    assert failure
    assert len(failure.log_tail) == 2000
    assert "\0end" in failure.log_tail
    json.dumps(failure.to_json(), ensure_ascii=False).encode()


def test_of_a_huge_log_the_end_is_kept(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    from batch_pipeline.container import log

    monkeypatch.setattr(log.FileLog.tail, "__defaults__", (1000,))
    assert workshop.live(workshop.script('#!/bin/sh\nseq 1 2000\ncp "$INPUT_X" y\n')) == 0
    assert len(workshop.stored_log()) == 1000
    assert workshop.printed().endswith(b"1999\n2000\n")


def test_a_full_scratch_disk_is_told(workshop: Workshop) -> None:
    environment = workshop.script("#!/bin/sh\ncat /dev/zero > /dev/full\n")
    assert workshop.live(environment) == 74
    failure = workshop.failure()
    assert failure
    assert failure.end_reason == "disk_full"


def test_a_cell_reads_what_a_gather_made(workshop: Workshop) -> None:
    fingerprint = workshop.upstream("merge", layout.COHORT, {"table.txt": b"T"}, {"rows": 3})
    environment = workshop.submit(
        [Row(sample="s1", fingerprint="f" * 16, upstream={"merge": fingerprint})],
        script="step.sh",
        bundle_sha256=workshop.bundle({"step.sh": '#!/bin/sh\ncat "$INPUT_TABLE" > y; echo "$SAMPLE" >> y\n'}),
        inputs=(InputSpec(port="table", kind="cohort", step="merge", files=("table.txt",)),),
        outputs=(OutputSpec(port="y", files=("y",)),),
    )
    assert workshop.live(environment) == 0, workshop.log
    assert workshop.result() == b"Ts1\n"
    receipt = workshop.receipt()
    assert receipt
    assert [record.key for record in receipt.inputs] == ["cohort/merge/table.txt"]


def test_a_join_ends_well_and_leaves_nothing(workshop: Workshop) -> None:
    environment = workshop.script()
    before = workshop.dump()
    assert workshop.live({**environment, "BATCH_PIPELINE_JOIN": "1"}) == 0
    assert workshop.log == b""
    assert workshop.dump() == before
