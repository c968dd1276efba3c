"""kill -9 of the supervisor at every step of a cell's life: the next attempt leaves one receipt and right outputs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from batch_pipeline.wire import layout
from batch_pipeline.wire.manifest import InputSpec, OutputSpec, RetiredReceipt, Row, SourceFile

if TYPE_CHECKING:
    from tests.container.conftest import Workshop

pytestmark = pytest.mark.faults

#: Kills itself just before (even) or after (odd) the n-th call that a cell makes to the store or the disk.
PROGRAM = """
import os, sys, signal
from batch_pipeline.container import cell, disk, execution, fetch, files, run
from batch_pipeline.container.entry import run_child

left = int(sys.argv[1])
def moment():
    global left
    if left == 0: os.kill(os.getpid(), signal.SIGKILL)
    left -= 1

def deadly(owner, name):
    call = getattr(owner, name)
    def wrapped(*arguments, **options):
        moment()
        result = call(*arguments, **options)
        moment()
        return result
    setattr(owner, name, wrapped)

for name in ("read", "read_range", "write", "versions_in", "digest", "delete", "bring", "publish"):
    deadly(files.FolderFiles, name)
for name in ("mkdir", "replace", "rename", "posix_spawn", "symlink", "unlink", "rmdir", "waitid"):
    deadly(os, name)
sys.exit(run_child(dict(os.environ), [], {}))
"""

OUTPUTS = (OutputSpec(port="y", files=("y1", "y2")),)


def run(workshop: Workshop, environment: dict[str, str], moment: int) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(moment)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=workshop.root,
    )
    return done.returncode


def promises_hold(workshop: Workshop) -> bool:
    """Whether there is a receipt; if there is, it must speak the truth."""
    receipt = workshop.receipt()
    if receipt is None:
        return False
    assert [record.key for record in receipt.outputs] == ["results/copy/s1/y1", "results/copy/s1/y2"]
    for record in receipt.outputs:
        assert workshop.store.get(record.key) == b"data\n"
    return True


def test_killed_at_every_moment_the_next_attempt_finishes(folder_workshop: Workshop) -> None:
    workshop = folder_workshop
    script = '#!/bin/sh\ncp "$INPUT_X" y1; cp y1 y2\n'
    moment, killed, kept = 0, 0, 0
    while True:
        # A cache of its own, so that each life fetches and unpacks the bundle.
        environment = workshop.script(script, outputs=OUTPUTS)
        environment["BATCH_PIPELINE_CACHE"] = str(workshop.root / f"cache{moment}")
        workshop.store.delete([entry.key for entry in workshop.store.list("receipts")])
        workshop.store.put("results/copy/s1/y1", b"of an older run")
        workshop.store.put("results/copy/s1/y2", b"of an older run")
        code = run(workshop, environment, moment)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        killed += 1
        done = promises_hold(workshop)
        kept += done
        assert workshop.live({**environment, "AWS_BATCH_JOB_ATTEMPT": "2"}) == 0, (moment, workshop.log)
        assert (b"is done already" in workshop.log) == done
        assert promises_hold(workshop)
        moment += 1
    # More moments than calls of a cell were seen, some of them after the receipt.
    assert killed > 30
    assert kept > 5


def test_killed_while_the_step_runs_the_next_attempt_is_alone_in_its_scratch(folder_workshop: Workshop) -> None:
    workshop = folder_workshop
    script = """#!/bin/sh
if test "$AWS_BATCH_JOB_ATTEMPT" = 1; then echo $$; echo wrong > y; exec sleep 1000; fi
cp "$INPUT_X" y
"""
    environment = workshop.script(script)
    process = workshop.start(environment)
    assert process.stdout
    orphan = int(next(line for line in process.stdout if line.strip().isdigit()))
    try:
        process.kill()
        process.wait()
        assert workshop.live({**environment, "AWS_BATCH_JOB_ATTEMPT": "2"}) == 0
        assert workshop.result() == b"data\n"
        receipt = workshop.receipt()
        assert receipt
        assert receipt.attempt == 2
        # The next life on this host has removed what the killed attempt left.
        assert workshop.left_in_scratch() == []
    finally:
        os.killpg(orphan, signal.SIGKILL)
        process.stdout.close()


def test_killed_between_the_older_receipt_and_the_new_one_nothing_vouches(folder_workshop: Workshop) -> None:
    workshop = folder_workshop
    moment, seen = 0, False
    while not seen:
        environment = workshop.script('#!/bin/sh\ncp "$INPUT_X" y1; cp y1 y2\n', outputs=OUTPUTS)
        workshop.store.delete([entry.key for entry in workshop.store.list("receipts")])
        old = layout.receipt("copy", "s1", "0" * 16)
        workshop.store.put(old, b"{}")
        workshop.store.put("results/copy/s1/y1", b"of an older run")
        if run(workshop, environment, moment) == 0:
            break
        keys = [entry.key for entry in workshop.store.list("receipts")]
        if workshop.store.get("results/copy/s1/y1") == b"data\n":
            assert old not in keys
            seen = True
        moment += 4
    assert seen


def test_killed_at_every_moment_of_keeping_a_result_the_next_attempt_keeps_it(folder_workshop: Workshop) -> None:
    """Only the retired receipt or one with the note that it was kept stands, and the results are never touched."""
    workshop = folder_workshop
    script = '#!/bin/sh\ncp "$INPUT_X" y1; cp y1 y2\n'
    assert workshop.live(workshop.script(script, outputs=OUTPUTS)) == 0
    key = layout.receipt("copy", "s1", "f" * 16)
    moment, killed, kept = 0, 0, 0
    while True:
        retired = workshop.store.version(workshop.store.head(key))
        environment = keeping(workshop, f"RUN{moment}", retired)
        code = run(workshop, environment, moment)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        killed += 1
        assert promises_hold(workshop)
        is_new = workshop.store.version(workshop.store.head(key)) != retired
        receipt = workshop.receipt()
        assert receipt
        assert is_new == (receipt.written_by == (f"RUN{moment}", 1))
        kept += is_new
        assert workshop.live({**environment, "AWS_BATCH_JOB_ATTEMPT": "2"}) == 0, (moment, workshop.log)
        receipt = workshop.receipt()
        assert receipt
        assert receipt.written_by == (f"RUN{moment}", 1 if is_new else 2)
        assert receipt.run_id == "R"
        moment += 1
    assert killed > 20
    assert kept > 1


def keeping(workshop: Workshop, run_id: str, version: str) -> dict[str, str]:
    """The same cell, sent again by another run after its receipt was retired."""
    entry = workshop.store.head("in/x.txt")
    row = Row(
        sample="s1",
        fingerprint="f" * 16,
        sources={"x": (SourceFile(url=entry.key, etag=entry.etag, size_bytes=entry.size_bytes),)},
        retired=RetiredReceipt(version=version),
    )
    inputs = (InputSpec(port="x", kind="source"),)
    return workshop.submit([row], run_id=run_id, script="step.sh", inputs=inputs, outputs=OUTPUTS, format=2)
